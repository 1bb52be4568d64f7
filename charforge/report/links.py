"""The way back from an answer: to the training samples nearest to it, their dialogue, its scene, and the profile's paragraphs.

Nearest is by words, ranked by BM25 over question and answer together. That is where to look, and no claim that a sample caused an
answer. Only what something links to gets into the appendix, so the page stays small.
"""

from __future__ import annotations

import json
from functools import cached_property
from typing import TYPE_CHECKING, Any

from charforge import evidence
from charforge.report.words import anchor, shortened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    Record = Mapping[str, Any]
    Link = dict[str, str]
    """{"href", "text"} and, where there is more to say, "title"."""

NEAREST = 2
LOOKED_AT = 20
"""Samples by rank: long dialogues are several samples of one source."""
SHARED = 3
"""Different content words that an answer and a sample must have in common to be called near."""
TEXT_SHOWN = 4000
"""Characters of a sample that has no dialogue of ours behind it."""


class Links:
    """What can be linked to. Asking for a link puts its target into the appendix.

    `sft` are records of sft.jsonl, `dialogues` those of dialogues, protective and written together, `held_out` ids of sources
    that were not trained on.
    """

    def __init__(
        self,
        *,
        profile: Record,
        sft: Sequence[Record],
        dialogues: Iterable[Record],
        scenes: Iterable[Record],
        held_out: Iterable[str],
    ) -> None:
        self._paragraphs = list(profile.get("paragraphs", ()))
        self._by_id = {str(one["id"]): one for one in self._paragraphs}
        self._dialogues = {str(one["id"]): one for one in dialogues}
        self._scenes = {str(one["id"]): one for one in scenes}
        self._sft = list(sft)
        left = set(held_out)
        self._trained = [one for one in self._sft if str(one["source"]["id"]) not in left]
        self._cited: set[str] = set()
        self._linked: set[str] = set()

    def paragraph(self, identity: str, number: int | None = None) -> Link:
        """Return a link to a paragraph, or its bare name where the profile has none of that id."""
        one = self._by_id.get(identity)
        if one is None:
            return {"href": "", "text": f"paragraph {number}" if number else identity}
        self._cited.add(identity)
        return {
            "href": f"#{anchor('paragraph', identity)}",
            "text": f"paragraph {one.get('number', number)}",
            "title": identity,
        }

    def sample(self, identity: str) -> Link:
        """Return a link to a source of training samples, or its bare name where there is none of that id."""
        if identity not in self._dialogues and all(str(one["source"]["id"]) != identity for one in self._sft):
            return {"href": "", "text": identity}
        self._linked.add(identity)
        return {"href": f"#{anchor('sample', identity)}", "text": self._title(identity), "title": identity}

    def nearest(self, text: str) -> list[Link]:
        """Return links to the sources of up to NEAREST samples that share the most telling words with a text."""
        wanted = set(evidence.content_words(text))
        found: list[str] = []
        (ranked,) = evidence.nearest(self._texts, [text], LOOKED_AT)
        for place, _ in ranked:
            source = str(self._trained[place]["source"]["id"])
            if source not in found and len(wanted & self._words(place)) >= SHARED:
                found.append(source)
            if len(found) == NEAREST:
                break
        return [self.sample(source) for source in found]

    @cached_property
    def _texts(self) -> list[str]:
        return [str(one["output"]) for one in self._trained]

    def _words(self, place: int) -> set[str]:
        return set(evidence.content_words(self._texts[place]))

    def _title(self, identity: str) -> str:
        one = self._dialogues.get(identity, {})
        return shortened(str(one.get("title") or one.get("background") or identity), 80)

    def samples(self, short_name: str) -> list[dict[str, Any]]:
        """Return what the appendix shows of the linked samples. Call it last but for `paragraphs`: it cites some more."""
        shown = []
        for identity in sorted(self._linked):
            one = self._dialogues.get(identity)
            made = {
                "anchor": anchor("sample", identity),
                "id": identity,
                "title": self._title(identity),
                "kind": "released",
                "text": "",
            }
            if one is None:
                records = [record for record in self._sft if str(record["source"]["id"]) == identity]
                whole = "\n\n".join(f"{record['prompt']}{record['output']}" for record in records)
                shown.append(made | {"text": shortened(whole, TEXT_SHOWN), "paragraphs": []})
                continue
            shown.append(made | self.dialogue(one, short_name))
        return shown

    def dialogue(self, one: Record, short_name: str) -> dict[str, Any]:
        """Return a dialogue as the page shows it, with links to its paragraphs and what its scene says."""
        scene = self._scenes.get(str(one.get("scene") or ""))
        paragraphs = list(one.get("paragraphs") or [])
        if scene is not None and scene.get("paragraph") and scene["paragraph"] not in paragraphs:
            paragraphs.append(scene["paragraph"])
        return {
            "id": one["id"],
            "title": shortened(str(one.get("title") or one.get("background") or one["id"]), 120),
            "kind": one["kind"],
            "location": str(one.get("location") or "").rstrip("."),
            "background": str(one.get("background") or ""),
            "provocation": one.get("provocation"),
            "scene": None
            if scene is None
            else {"id": scene["id"], "type": scene.get("type"), "background": scene.get("background")},
            "paragraphs": [self.paragraph(str(name)) for name in paragraphs],
            "turns": [
                {
                    "role": turn["role"],
                    "thinking": turn["action"] == "thinking",
                    "content": turn["content"],
                    "own": turn["role"] == short_name,
                    "marks": [],
                }
                for turn in one["turns"]
            ],
        }

    def paragraphs(self) -> list[dict[str, Any]]:
        """Return the cited paragraphs for the appendix, in the profile's order."""
        return [
            {
                "anchor": anchor("paragraph", str(one["id"])),
                "number": one.get("number"),
                "id": one["id"],
                "section": one.get("section") or "",
                "text": one["text"],
            }
            for one in self._paragraphs
            if str(one["id"]) in self._cited
        ]


def reason(verdict: str, limit: int) -> str:
    """Return why a judge gave its grade: the reason of a reply in JSON, else the reply as it is; shortened."""
    try:
        data = json.loads(verdict)
    except ValueError:
        data = None
    except RecursionError:
        data = None
    if isinstance(data, dict):
        for key in ("reason", "reasoning", "analysis"):
            if isinstance(data.get(key), str) and data[key].strip():
                return shortened(data[key].strip(), limit)
    return shortened(" ".join(verdict.split()), limit)
