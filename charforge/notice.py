"""What readers have to be told about whom a character is made after, in sentences for the report and for cards.

The law in many countries, and decency in all, ask that words put into a real person's mouth are marked as such.
"""

from __future__ import annotations

_SAID = {
    "historical": "{name} was a real person.",
    "living": "{name} is a real and living person.",
    "fictional": "{name} is a character of fiction.",
}


def about(name: str, portrays: str | None, notice: str | None) -> str:
    """Return what `portrays` says of a character called `name`, then the author's own notice; "" where neither says anything."""
    said = [] if portrays is None else [_SAID[portrays].format(name=name)]
    return " ".join([*said, *([notice] if notice else [])])


def about_answers(name: str, portrays: str | None, notice: str | None) -> str:
    """Return the same for a page of answers: of a real person it says first that none of them is that person's own."""
    if portrays in {"historical", "living"}:
        own = f"None of the answers on this page is {name}'s own."
        notice = f"{own} {notice}" if notice else own
    return about(name, portrays, notice)
