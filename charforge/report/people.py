"""The contestants as a page shows them: reference first, each with a name, a shape and a colour of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Record = Mapping[str, Any]

TRAINED = "trained"
BASE = "base"

# (matplotlib's marker, the same shape as a letter; U+FE0E: as text, no picture). Shapes tell contestants apart in print and to
# those who see no colours.
_SHAPES = (
    ("o", "●"),
    ("s", "■"),
    ("D", "◆"),
    ("^", "▲"),
    ("v", "▼"),
    ("*", "★"),
    ("P", "✚"),
    ("X", "✖\ufe0e"),
)

_KINDS = {
    "trained": "trained on its own dialogues",
    "base": "the model it was trained from, with the character’s prompt",
    "prompted": "a model with the character’s prompt",
    "imported": "answers that were read from files",
}


@dataclass(frozen=True, slots=True)
class Person:
    """A contestant. `css` is its colour's class, `marker` matplotlib's name of its shape, `glyph` that shape as a letter."""

    name: str
    label: str
    kind: str
    model: str | None
    reference: bool
    css: str
    marker: str
    glyph: str

    @property
    def what(self) -> str:
        """Who this is, in words."""
        return _KINDS.get(self.kind, self.kind)


def people(contestants: Sequence[Record], short_name: str, *records: Sequence[Record]) -> list[Person]:
    """Return the contestants, reference first, then as contestants.json has them.

    Who is not in `contestants` but answers in `records` follows by name.
    """
    found = {str(one["name"]): dict(one) for one in contestants}
    for name in sorted({str(one["contestant"]) for several in records for one in several} - set(found)):
        found[name] = {"name": name, "kind": name if name in {TRAINED, BASE} else "prompted"}
    order = list(found)
    first = next((name for name in order if found[name].get("reference")), None)
    if first is None and order:
        first = TRAINED if TRAINED in found else order[0]
    order.sort(key=lambda name: name != first)
    return [
        Person(
            name=name,
            label=_label(name, str(found[name]["kind"]), short_name),
            kind=str(found[name]["kind"]),
            model=found[name].get("model"),
            reference=name == first,
            css=f"c{place % len(_SHAPES)}",
            marker=_SHAPES[place % len(_SHAPES)][0],
            glyph=_SHAPES[place % len(_SHAPES)][1],
        )
        for place, name in enumerate(order)
    ]


def _label(name: str, kind: str, short_name: str) -> str:
    if kind == TRAINED:
        return f"{short_name}, trained"
    return "Base model, prompted" if kind == BASE else name
