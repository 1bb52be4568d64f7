"""Prompts from Jinja templates that may come from a stranger: source and values in, text out.

A template can loop over the values it is given, test them and print them, and nothing else: no includes or
imports, no `set`, no `range`, no calls, no attributes that begin with an underscore, a short list of filters, a limit on
what it prints. It knows no file; `name` is only how errors call the template. Undefined variables are errors, never empty text.
Text is plain: nothing is escaped, because prompts are not HTML.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from charforge.errors import CharForgeError

MAX_SOURCE = 100_000
MAX_OUTPUT = 200_000
"""Characters. A prompt of the paper's size has 6,000; the longest context in use would hold about 400,000."""

FILTERS = (
    "capitalize", "count", "default", "first", "int", "join", "last", "length", "lower", "reverse", "round", "sort",
    "string", "title", "trim", "truncate", "unique", "upper", "wordcount",
)  # fmt: skip
"""Jinja's filters that templates may use. Absent are those that make text grow and those that call something."""


def _join(items: Any, between: str = "") -> str:
    texts = [str(item) for item in items]
    if sum(map(len, texts)) + len(texts) * len(str(between)) > MAX_OUTPUT:
        raise SecurityError(f"'join' makes more than {MAX_OUTPUT:,} characters")
    return str(between).join(texts)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with less in it."""

    # On text these grow it before anything is printed: `"x" * 10**9`, `"%999999999d" % 1`, `x + x` on x + x on …
    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)
        self.globals.clear()  # `range`, `lipsum`, `cycler`, `namespace`, …
        self.filters = {name: self.filters[name] for name in FILTERS} | {"join": _join}

    def is_safe_callable(self, obj: Any) -> bool:  # noqa: ARG002  # the base class's signature
        return False

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Calculate with numbers of ordinary size only."""
        if operator == "**" or not all(isinstance(n, int | float) and abs(n) < 1e9 for n in (left, right)):
            raise SecurityError(f"'{operator}' is for small numbers only")
        return super().call_binop(context, operator, left, right)


_ENVIRONMENT = _Environment()
_REFUSED = (
    nodes.Include,
    nodes.Import,
    nodes.FromImport,
    nodes.Extends,
    nodes.Macro,
    nodes.CallBlock,
    nodes.Call,
    nodes.Assign,  # thirty lines of `set x = x ~ x` are 2**30 times x
    nodes.AssignBlock,
    nodes.With,
)
_WRITTEN = {nodes.Call: "calls", nodes.Assign: "'set'", nodes.AssignBlock: "'set'"}


def render(source: str, name: str, /, **values: Any) -> str:
    """Return the text of a template. One newline at its end is dropped; `trim_blocks` and `lstrip_blocks` are on.

    Raises CharForgeError with `name` and the line: a syntax error, a variable that is not among `values`, something
    the sandbox refuses, or more than MAX_OUTPUT characters.
    """
    template = _compiled(source, name)
    parts = []
    left = MAX_OUTPUT
    try:
        for part in template.generate(values):
            parts.append(part)
            left -= len(part)
            if left < 0:
                break
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
        raise _failed(error, name, values) from error
    if left < 0:
        raise CharForgeError(f"{name}: the template prints more than {MAX_OUTPUT:,} characters")
    return "".join(parts)


def literals(source: str, name: str) -> str:
    """Return what a template prints whatever its values: its own words, with a newline where something is put in.

    Raises CharForgeError where the template does not parse.
    """
    tree = _parsed(source, name)
    texts = []
    for output in tree.find_all(nodes.Output):
        texts += [node.data if isinstance(node, nodes.TemplateData) else "\n" for node in output.nodes]
    return "\n".join(texts)


def _parsed(source: str, name: str) -> nodes.Template:
    if len(source) > MAX_SOURCE:
        raise CharForgeError(
            f"{name}: the template has {len(source):,} characters, the limit is {MAX_SOURCE:,}"
        )
    try:
        tree = _ENVIRONMENT.parse(source, name, name)
    except TemplateSyntaxError as error:
        raise CharForgeError(f"{name}:{error.lineno}: {error.message}") from error
    except RecursionError as error:
        raise CharForgeError(f"{name}: the template is nested too deeply") from error
    for node in tree.find_all(_REFUSED):
        what = _WRITTEN.get(type(node), f"'{type(node).__name__.lower()}'")
        raise CharForgeError(f"{name}:{node.lineno}: {what} cannot be used in a prompt template")
    return tree


@lru_cache(maxsize=128)
def _compiled(source: str, name: str) -> Any:
    _parsed(source, name)
    try:
        code = _ENVIRONMENT.compile(source, name, name)
    except TemplateSyntaxError as error:  # an unknown filter or test is found only here
        raise CharForgeError(f"{name}:{error.lineno}: {error.message}") from error
    return _ENVIRONMENT.template_class.from_code(_ENVIRONMENT, code, {})


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
