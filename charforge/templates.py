"""Prompts from Jinja templates that may come from a stranger: source and values in, text out.

A template can loop over the values it is given, test them and print them, and nothing else: no includes or
imports, no `set`, no `range`, no calls, no attributes that begin with an underscore, a short list of filters, limits on
what it prints and on how long it takes. It knows no file; `name` is only how errors call the template. Undefined variables are errors, never empty
text. Text is plain: nothing is escaped, because prompts are not HTML.
"""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from charforge.errors import CharForgeError

MAX_SOURCE = 100_000
MAX_OUTPUT = 200_000
"""Characters. A prompt of the paper's size has 6,000; the longest context in use would hold about 400,000."""


def render(source: str, name: str, /, **values: Any) -> str:
    """Return the text of a template. One newline at its end is dropped; `trim_blocks` and `lstrip_blocks` are on.

    Raises CharForgeError with `name` and the line: a syntax error, a variable that is not among `values`, something
    the sandbox refuses, more than MAX_OUTPUT characters, or more steps than it has.
    """
    from charforge.sandbox import TemplateError, values_of

    template = _compiled(source, name)
    parts = []
    left = MAX_OUTPUT
    try:
        for part in template.generate(values_of(values)):
            parts.append(part)
            left -= len(part)
            if left < 0:
                break
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise _failed(error, name, values) from error
    if left < 0:
        raise CharForgeError(f"{name}: the template prints more than {MAX_OUTPUT:,} characters")
    return "".join(parts)


@lru_cache(maxsize=128)
def literals(source: str, name: str) -> str:
    """Return what a template prints whatever its values: its own words, with a newline where something is put in.

    Raises CharForgeError where the template does not parse.
    """
    from charforge.sandbox import literal_texts

    return "".join(literal_texts(_parsed(source, name)))


@cache
def _environment() -> Any:
    from charforge.sandbox import Environment

    return Environment(MAX_OUTPUT)


def _parsed(source: str, name: str) -> Any:
    from charforge.sandbox import TemplateSyntaxError, refused

    if len(source) > MAX_SOURCE:
        raise CharForgeError(
            f"{name}: the template has {len(source):,} characters, the limit is {MAX_SOURCE:,}"
        )
    try:
        tree = _environment().parse(source, name, name)
    except TemplateSyntaxError as error:
        raise CharForgeError(f"{name}:{error.lineno}: {error.message}") from error
    except (RecursionError, MemoryError) as error:
        raise CharForgeError(f"{name}: the template is nested too deeply") from error
    except ValueError as error:  # a number of thousands of digits
        raise CharForgeError(f"{name}: {str(error).partition(':')[0]}") from error
    found = refused(tree)
    if found:
        raise CharForgeError(f"{name}:{found[0]}: {found[1]}")
    return tree


@lru_cache(maxsize=128)
def _compiled(source: str, name: str) -> Any:
    from charforge.sandbox import TemplateSyntaxError, metered

    environment = _environment()
    try:
        code = environment.compile(metered(_parsed(source, name)), name, name)
    except TemplateSyntaxError as error:  # an unknown filter or test is found only here
        raise CharForgeError(f"{name}:{error.lineno}: {error.message}") from error
    except (RecursionError, MemoryError, SyntaxError) as error:  # Python allows 20 loops within each other
        raise CharForgeError(f"{name}: the template is nested too deeply") from error
    return environment.template_class.from_code(environment, code, {})


def _failed(error: Exception, name: str, values: dict[str, Any]) -> CharForgeError:
    """Return what went wrong while rendering, with the template's line, which Jinja writes into the traceback."""
    line = None
    trace = error.__traceback__
    while trace:
        if trace.tb_frame.f_code.co_filename == name:
            line = trace.tb_lineno
        trace = trace.tb_next
    where = name if line is None else f"{name}:{line}"
    hint = None
    if "is undefined" in str(error):
        hint = (
            f"a prompt of this kind is given: {', '.join(sorted(values))}"
            if values
            else "it is given no values"
        )
    return CharForgeError(f"{where}: {error}", hint)
