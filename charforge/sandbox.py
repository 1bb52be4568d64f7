"""The Jinja environment of prompt templates: the sandbox with less in it, and an end to what a template can do.

What is not on a list cannot be used. Loops, filters, comparisons and `~` are paid for out of a number of steps (a node of the
template that a loop passes, an item of a list, 100 characters), so that a template ends in about a second whatever it says.
Apart from charforge.templates so that Jinja (20 ms) is imported by a build that renders something and by no other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

__all__ = [
    "Environment",
    "TemplateError",
    "TemplateSyntaxError",
    "literal_texts",
    "metered",
    "refused",
    "values_of",
]

FILTERS = (
    "capitalize", "count", "default", "first", "int", "join", "last", "length", "lower", "reverse", "round", "sort",
    "string", "title", "trim", "truncate", "unique", "upper", "wordcount",
)  # fmt: skip
"""Jinja's filters that templates may use. Absent are those that make text grow and those that call something."""

MAX_STEPS = 1_000_000
"""Each takes 0.1 to 1 µs."""
MAX_DEPTH = 60
"""Of nodes within nodes. Python's own compiler gives up at about 100."""
MAX_NODES = 10_000
_MAX_PRECISION = 20
_CHARACTERS = 100  # that a step searches, copies or makes
_WORD_BY_WORD = ("title", "wordcount")  # ten times as slow as the others

_USED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Name, nodes.Const, nodes.Compare,
    nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Pos, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div,
    nodes.FloorDiv, nodes.Mod, nodes.Pow, nodes.Filter, nodes.Test, nodes.Getattr, nodes.Getitem, nodes.Slice,
    nodes.CondExpr, nodes.Concat, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword,
)  # fmt: skip
_CALLED = {
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
    nodes.FilterBlock: "'filter'",  # gathers everything before any of it is counted
    nodes.Block: "'block'",
    nodes.Scope: "'autoescape'",
}
"""How messages call what is no part of _USED."""
_OBJECTS = frozenset(("self", "super", "caller", "varargs", "kwargs"))
# Names that no template can write: Jinja's own begin with a letter or '_'.
_METER, _EACH, _CONCAT, _PAID = " meter", " each", " concat", " paid"


class _Meter:
    """How many steps are left to one rendering."""

    left = MAX_STEPS

    def spend(self, steps: int) -> None:
        self.left -= steps
        if self.left < 0:
            raise SecurityError(f"the template takes more than {MAX_STEPS:,} steps")


class Environment(ImmutableSandboxedEnvironment):
    """What a template may do: print, test and loop over the values it is given."""

    # On text these grow it before anything is printed: `"x" * 10**9`, `"%999999999d" % 1`, `x + x` on x + x on …
    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, max_output: int) -> None:
        super().__init__(undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True)
        plain = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)

        def join(items: Any, between: str = "") -> str:
            texts = [str(item) for item in items]
            if sum(map(len, texts)) + len(texts) * len(str(between)) > max_output:
                raise SecurityError(f"'join' makes more than {max_output:,} characters")
            return str(between).join(texts)

        def round_(value: float, precision: int = 0, method: Any = "common") -> float:
            if abs(precision) > _MAX_PRECISION:  # it calculates 10**precision
                raise SecurityError(f"'round' is to at most {_MAX_PRECISION} places")
            found: float = plain.call_filter("round", value, [precision, method])
            return found

        own: dict[str, Callable[..., Any]] = {"join": join, "round": round_}

        def counted(name: str) -> Callable[..., Any]:
            @pass_context
            def apply(context: Context, value: Any, *args: Any, **options: Any) -> Any:
                spend = context.parent[_METER].spend
                spend(1 + _cost(value) * (10 if name in _WORD_BY_WORD else 1))
                if name in own:
                    result = own[name](value, *args, **options)
                else:
                    result = plain.call_filter(name, value, args, options, context=context)
                if isinstance(result, Iterator):  # which would print as its address in memory
                    result = list(result)
                spend(_cost(result))
                return result

            return apply

        @pass_context
        def each(context: Context, items: Any, weight: int) -> Iterator[Any]:
            spend = context.parent[_METER].spend
            for item in items:
                spend(weight)
                yield item

        @pass_context
        def concat(context: Context, parts: list[Any]) -> str:
            texts = [str(part) for part in parts]
            size = sum(map(len, texts))
            if size > max_output:
                raise SecurityError(f"'~' makes more than {max_output:,} characters")
            context.parent[_METER].spend(size // _CHARACTERS)
            return "".join(texts)

        @pass_context
        def paid(context: Context, value: Any) -> Any:
            context.parent[_METER].spend(_cost(value))
            return value

        self.globals.clear()  # `range`, `lipsum`, `cycler`, `namespace`, …
        self.filters = {name: counted(name) for name in FILTERS} | {
            _EACH: each,
            _CONCAT: concat,
            _PAID: paid,
        }

    def is_safe_callable(self, obj: Any) -> bool:  # noqa: ARG002  # the base class's signature
        return False

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Refuse methods, too: nothing can call them, and printed they are an address in memory, another one each time."""
        return super().is_safe_attribute(obj, attr, value) and not callable(value)

    def wrap_str_format(self, value: Any) -> None:
        """Give no template a `format` of text: one could not be called, and is refused as every method."""

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Calculate with numbers of ordinary size only."""
        if operator == "**" or not all(isinstance(n, int | float) and abs(n) < 1e9 for n in (left, right)):
            raise SecurityError(f"'{operator}' is for small numbers only")
        return super().call_binop(context, operator, left, right)


def _cost(value: Any) -> int:
    if isinstance(value, str):
        return len(value) // _CHARACTERS
    return len(value) if isinstance(value, list | tuple | dict) else 0


def values_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return what a metered template is rendered with: the values, and the steps it has."""
    return {**values, _METER: _Meter()}


def refused(tree: nodes.Template) -> tuple[int, str] | None:
    """Return (line, why) of the first thing in a template that a prompt does not need, None where all is well."""
    level: list[nodes.Node] = [tree]
    count = 0
    for _ in range(MAX_DEPTH):
        for node in level:
            if not isinstance(node, _USED) or (isinstance(node, nodes.For) and node.recursive):
                what = _CALLED.get(type(node), f"'{type(node).__name__.lower()}'")
                return node.lineno or 1, f"{what} cannot be used in a prompt template"
            if isinstance(node, nodes.Name) and node.name in _OBJECTS:
                return node.lineno, f"'{node.name}' cannot be used in a prompt template"
            if isinstance(node, nodes.Const) and isinstance(node.value, str) and not _encodes(node.value):
                return node.lineno, "half a character (a surrogate) is no text"
        count += len(level)
        if count > MAX_NODES:
            return level[0].lineno, "the template is too long"
        level = [inner for node in level for inner in node.iter_child_nodes()]
        if not level:
            return None
    return level[0].lineno, "the template is nested too deeply"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def metered(tree: nodes.Template) -> nodes.Template:
    """Return a template, that `refused` has passed, so changed that it pays for its loops and for what `~` makes."""
    changed: nodes.Template = _Metering().visit(tree)
    return changed


class _Metering(NodeTransformer):
    # Jinja finds these by their names.
    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        weight = 1 + sum(1 for _ in node.find_all(nodes.Node))
        self.generic_visit(node)
        node.iter = _filter(node.iter, _EACH, nodes.Const(weight, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:  # noqa: N802
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), _CONCAT)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:  # noqa: N802
        self.generic_visit(node)
        node.expr = _filter(node.expr, _PAID)
        for operand in node.ops:
            operand.expr = _filter(operand.expr, _PAID)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Getitem:  # noqa: N802
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filter(node.node, _PAID)
        return node


def _filter(value: nodes.Node, name: str, *args: nodes.Node) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)


def literal_texts(tree: nodes.Template) -> Iterable[str]:
    """Yield what a template prints whatever its values, with a newline where something is put in."""
    for output in tree.find_all(nodes.Output):
        for node in output.nodes:
            yield node.data if isinstance(node, nodes.TemplateData) else "\n"
        yield "\n"
