"""Whether a question was asked in the training data already: then its answer shows memory of the sample and no more.

A question overlaps a sample by the first of these rules that holds:

`same-words`: somebody in the sample asks the same, in the same words, whatever case and punctuation.
`same-subject`: somebody in the sample asks a question whose content stems are nearly the same: of the stems of both, at least 0.7
    are in both (Jaccard index), and at least two. Question words are no content: "When did you leave Bonn?" and "Why did you leave
    Bonn?" are one subject, since who trained on one answer has half of the other. One shared stem is too little: "Who is
    your father?" would meet every question with a father in it and nothing else. 0.7 lets two questions of three stems
    differ in none and of four in one (3 of 4 is 0.75, 2 of 3 is 0.67).
`same-run`: eight words in a row stand in the sample, anywhere, whoever says them, two content words among them; a shorter question has to
    be there whole, if it has four words. Eight is long enough that only quotation reaches it: checks.RULES calls eight words of
    a prompt copied, too. Content is asked for because of runs like "what was it that you had to say about".

A subject of an interview of several turns is held to the same rules. That a question and a scene are about the same event is no overlap: a
character is trained on its own life, and asked about it. Knows no stage and no file; who is asked is not known here.
"""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING, Any, NamedTuple

from charforge.evidence import STOPWORDS, stem, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

ALIKE = 0.7
MIN_SHARED = 2
RUN = 8
MIN_WHOLE = 4
MIN_CONTENT = 2

RULES = {
    "same-words": "somebody in a training sample asks the same in the same words",
    "same-subject": "somebody in a training sample asks a question with nearly the same content words",
    "same-run": "eight words in a row, or the whole question, stand in a training sample",
}
"""Every rule by name, as in set_aside.jsonl, and what it means."""


class Overlap(NamedTuple):
    """What a question has in common with a sample: the rule, the sample's name, and the sample's own words."""

    rule: str
    sample: str
    detail: str


class Trained:
    """The training samples, indexed: to build it takes half a second for 1.7 million words, to look up nothing to speak of."""

    def __init__(self, samples: Iterable[Mapping[str, Any]]) -> None:
        """Take records of sft.jsonl, {"prompt", "output", "source"}; their order is no matter."""
        import numpy as np

        texts = sorted((sample_name(s), f"{s['prompt']}\n{s['output']}") for s in samples)
        self.names = [name for name, _ in texts]
        self.starts: list[int] = []  # of each sample in `ids`
        self.by_words: dict[tuple[str, ...], int] = {}  # a question's words → the first sample that asks it
        self.by_stem: dict[str, list[int]] = {}  # → places in `asked`
        self.asked: list[tuple[frozenset[str], str, int]] = []  # stems, text, sample
        self.stems = _Stems()
        said: list[str] = []
        for index, (_, text) in enumerate(texts):
            self.starts.append(len(said))
            said += words(text)
            said.append("")  # no run goes on from one sample into the next
            for question in _asked(text):
                self._note(question, index)
        # Everything at once and by C: a loop over so many words takes longer than all else.
        self.vocabulary = {word: number for number, word in enumerate(dict.fromkeys(said))}
        self.ids = np.fromiter(map(self.vocabulary.__getitem__, said), np.int32, len(said))
        # The places of each word, all in one array: those of word w are order[bounds[w] : bounds[w + 1]].
        self.order = np.argsort(self.ids, kind="stable")
        self.bounds = np.searchsorted(self.ids[self.order], np.arange(len(self.vocabulary) + 1))

    def _note(self, question: str, sample: int) -> None:
        said = tuple(words(question))
        if not said or said in self.by_words:
            return
        self.by_words[said] = sample
        stems = frozenset(map(self.stems.__getitem__, said)) - {""}
        if len(stems) >= MIN_SHARED:
            for each in stems:
                self.by_stem.setdefault(each, []).append(len(self.asked))
            self.asked.append((stems, " ".join(question.split()), sample))

    def overlap(self, text: str) -> Overlap | None:
        """Return what of the samples a question, or a subject, has in common with them; None where it is new."""
        said = words(text)
        if (sample := self.by_words.get(tuple(said))) is not None:
            return Overlap("same-words", self.names[sample], " ".join(said))
        return self._same_subject(frozenset(map(self.stems.__getitem__, said)) - {""}) or self._same_run(said)

    def _same_subject(self, stems: frozenset[str]) -> Overlap | None:
        met: set[int] = set()
        for each in stems:
            met.update(self.by_stem.get(each, ()))
        best = None
        for index in met:
            other, text, sample = self.asked[index]
            shared = len(stems & other)
            if shared >= MIN_SHARED and shared >= ALIKE * len(stems | other):
                found = (-shared / len(stems | other), self.names[sample], text)
                best = found if best is None else min(best, found)
        return None if best is None else Overlap("same-subject", best[1], best[2])

    def _same_run(self, said: Sequence[str]) -> Overlap | None:
        length = min(RUN, len(said))
        if length < MIN_WHOLE:
            return None
        for start in range(len(said) - length + 1):
            run = said[start : start + length]
            if sum(self.stems[word] != "" for word in run) < MIN_CONTENT:
                continue
            place = self._place(run)
            if place is not None:
                name = self.names[bisect.bisect_right(self.starts, place) - 1]
                return Overlap("same-run", name, " ".join(run))
        return None

    def _place(self, run: Sequence[str]) -> int | None:
        """Return where in `ids` a run of words first stands."""
        wanted = [self.vocabulary.get(word, -1) for word in run]
        if -1 in wanted:
            return None
        rarest = min(range(len(wanted)), key=lambda i: self.bounds[wanted[i] + 1] - self.bounds[wanted[i]])
        places = self.order[self.bounds[wanted[rarest]] : self.bounds[wanted[rarest] + 1]] - rarest
        places = places[(places >= 0) & (places + len(wanted) <= len(self.ids))]
        for offset, number in enumerate(wanted):
            places = places[self.ids[places + offset] == number]
        return int(places[0]) if len(places) else None


def sample_name(sample: Mapping[str, Any]) -> str:
    """Return the name by which a record of sft.jsonl is told: its source's id, or its own."""
    source = sample.get("source")
    return str(source["id"] if isinstance(source, dict) and "id" in source else sample.get("id", source))


_ENDS = (".", "!", ":", "\n")


def _asked(text: str) -> list[str]:
    """Return the questions of a text. Each begins after a sentence, a line or a colon: a turn's `Visitor (speaking):` is no part of it."""
    # With one pattern for all of it, every letter of every other sentence would be a place to begin.
    pieces = text.split("?")[:-1]
    return [piece[max(map(piece.rfind, _ENDS)) + 1 :] + "?" for piece in pieces]


class _Stems(dict[str, str]):
    """The stem of each word that was met, empty for one without content; what evidence.content_words says, at a third of the time."""

    def __missing__(self, word: str) -> str:
        return self.setdefault(word, stem(word) if len(word) > 2 and word not in STOPWORDS else "")
