"""Interview questions: a YAML file of single questions and of multi-turn subjects, as frozen records.

The file's form is questions.schema.json. This module opens no file and knows nothing of who is asked.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from charforge import safe_yaml
from charforge.errors import FileProblems
from charforge.files import visible
from charforge.safe_yaml import Document, KeyPath, shown
from charforge.schema import faults, schema_file

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from charforge.errors import Problem

TOPICS = ("past", "relations", "values", "traps")
MAX_SLUG = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Asked once, in a conversation of its own. `question` is one line."""

    id: str
    topic: str
    question: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What a multi-turn interview is about. `subject` is one line."""

    id: str
    topic: str
    subject: str


@dataclass(frozen=True, slots=True)
class Questions:
    """All questions of a file, in its order."""

    single: tuple[Question, ...]
    multi: tuple[Subject, ...]

    def single_records(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Return {"id", "topic", "question"} of all questions, or of `limit` spread over the topics, in file order."""
        return spread([asdict(question) for question in self.single], limit)

    def multi_records(self, limit: int | None = None) -> list[dict[str, Any]]:
        """Return {"id", "topic", "subject"} of all subjects, or of `limit` spread over the topics, in file order."""
        return spread([asdict(subject) for subject in self.multi], limit)


def read(text: str, *, file: str) -> Questions:
    """Return the questions of a YAML text. `file` is the name that problems use.

    White space inside a question is folded. Raises FileProblems with everything that is wrong: the form, an id or a
    question that is there twice.
    """
    problems: list[Problem] = []
    document = safe_yaml.parse(text, file, problems=problems)
    found = [
        fault for fault in faults(document.value, schema_file("questions")) if fault.path not in document.bad
    ]
    problems += [
        document.problem(fault.path, fault.message, fault.hint, at_key=fault.at_key, hide=fault.secret)
        for fault in found
    ]
    problems += _repeated(document, {fault.path for fault in found})
    if problems:
        raise FileProblems(problems)
    return Questions(
        tuple(Question(**_folded(item)) for item in document.value["single"]),
        tuple(Subject(**_folded(item)) for item in document.value["multi"]),
    )


def question_id(kind: str, text: str) -> str:
    """Return the id of a question that nobody named, such as `where-were-you-born-3f2a91c0`: the same for the same text.

    `kind` is `single` or `multi`. Case, white space and punctuation make no other question, and no other id.
    """
    said = " ".join(re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold()))
    plain = unicodedata.normalize("NFKD", said).encode("ascii", "ignore").decode()
    slug = "-".join(re.findall(r"[a-z0-9]+", plain)) or "q"
    if len(slug) > MAX_SLUG:  # between words, or within a word that is longer than that
        slug = slug[: MAX_SLUG + 1].rpartition("-")[0] or slug[:MAX_SLUG]
    digest = hashlib.sha256(f"{kind}\n{said}".encode()).hexdigest()
    return f"{slug}-{digest[:8]}"


def as_yaml(single: Sequence[Mapping[str, Any]], multi: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return the text of a questions file with these records, which `read` reads back; `name` is whom they are put to."""
    lines = [f"# Interview questions for {visible(name)}."]
    for part, records, key in (("single", single, "question"), ("multi", multi, "subject")):
        lines.append(f"{part}:" if records else f"{part}: []")
        for record in records:
            lines += [f"  - id: {record['id']}", f"    topic: {record['topic']}"]
            lines.append(f"    {key}: {safe_yaml.scalar(record[key])}")
    return "\n".join(lines) + "\n"


def spread(records: Sequence[Mapping[str, Any]], limit: int | None) -> list[dict[str, Any]]:
    """Return records in their order, all of them or `limit`: the first of each topic, then the second of each …

    A higher limit keeps what a lower one chose.
    """
    if limit is None or limit >= len(records):
        return [dict(record) for record in records]
    rank: defaultdict[str, int] = defaultdict(int)
    order = []
    for position, record in enumerate(records):
        order.append((rank[record["topic"]], TOPICS.index(record["topic"]), position))
        rank[record["topic"]] += 1
    return [
        dict(records[position]) for position in sorted(position for _, _, position in sorted(order)[:limit])
    ]


def _repeated(document: Document, wrong: set[KeyPath]) -> list[Problem]:
    """Return a problem for each id, question or subject that an earlier line has already."""
    if not isinstance(document.value, dict):
        return []
    problems: list[Problem] = []
    first: dict[tuple[str, str], int | None] = {}
    for part, key in (("single", "question"), ("multi", "subject")):
        items = document.value.get(part)
        for index, item in enumerate(items if isinstance(items, list) else ()):
            for name in ("id", key):
                path: KeyPath = (part, index, name)
                value = item.get(name) if isinstance(item, dict) else None
                if not isinstance(value, str) or path in wrong:
                    continue
                # Answers are named by the id alone, so it is one name for both parts.
                same = (name, value if name == "id" else " ".join(value.casefold().split()))
                if same in first:
                    message = f"{shown(value)} is there already, on line {first[same]}"
                    problems.append(document.problem(path, message, "keep one of them"))
                else:
                    first[same] = document.line(path)
    return problems


def _folded(item: dict[str, str]) -> dict[str, str]:
    return {key: " ".join(value.split()) for key, value in item.items()}
