"""The Jinja environment of prompt templates: the sandbox with less in it.

Apart from charforge.templates so that Jinja (20 ms) is imported by a build that renders something and by no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Environment", "TemplateError", "TemplateSyntaxError", "literal_texts", "refused"]

FILTERS = (
    "capitalize", "count", "default", "first", "int", "join", "last", "length", "lower", "reverse", "round", "sort",
    "string", "title", "trim", "truncate", "unique", "upper", "wordcount",
)  # fmt: skip
"""Jinja's filters that templates may use. Absent are those that make text grow and those that call something."""

_REFUSED = {
    nodes.Include: "'include'",
    nodes.Import: "'import'",
    nodes.FromImport: "'import'",
    nodes.Extends: "'extends'",
    nodes.Macro: "'macro'",
    nodes.CallBlock: "'call'",
    nodes.Call: "calls",
    nodes.Assign: "'set'",  # thirty lines of `set x = x ~ x` are 2**30 times x
    nodes.AssignBlock: "'set'",
    nodes.With: "'with'",
}


class Environment(ImmutableSandboxedEnvironment):
    """What a template may do: print, test and loop over the values it is given."""

    # On text these grow it before anything is printed: `"x" * 10**9`, `"%999999999d" % 1`, `x + x` on x + x on …
    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, max_output: int) -> None:
        super().__init__(undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)

        def join(items: Any, between: str = "") -> str:
            texts = [str(item) for item in items]
            if sum(map(len, texts)) + len(texts) * len(str(between)) > max_output:
                raise SecurityError(f"'join' makes more than {max_output:,} characters")
            return str(between).join(texts)

        self.globals.clear()  # `range`, `lipsum`, `cycler`, `namespace`, …
        self.filters = {name: self.filters[name] for name in FILTERS} | {"join": join}

    def is_safe_callable(self, obj: Any) -> bool:  # noqa: ARG002  # the base class's signature
        return False

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Calculate with numbers of ordinary size only."""
        if operator == "**" or not all(isinstance(n, int | float) and abs(n) < 1e9 for n in (left, right)):
            raise SecurityError(f"'{operator}' is for small numbers only")
        return super().call_binop(context, operator, left, right)


def refused(tree: nodes.Template) -> tuple[int, str] | None:
    """Return (line, what) of the first thing in a template that a prompt does not need, None where all is well."""
    found = next(iter(tree.find_all(tuple(_REFUSED))), None)
    return None if found is None else (found.lineno, _REFUSED[type(found)])


def literal_texts(tree: nodes.Template) -> Iterable[str]:
    """Yield what a template prints whatever its values, with a newline where something is put in."""
    for output in tree.find_all(nodes.Output):
        for node in output.nodes:
            yield node.data if isinstance(node, nodes.TemplateData) else "\n"
        yield "\n"
