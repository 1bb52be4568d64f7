"""Which way of telling near-duplicates is right for the data set?

    python bench/duplicates.py

Two corpora, made from the text of Beethoven's profile and written dialogues by a chain of word pairs, so that strangers share
phrases as real texts of one character do: 1,600 dialogues of 1,200 words, and 1,600 scenes of 60 words. One text in ten has a
near-copy further on: copied whole, with 5, 10 or 20 % of its words exchanged, with its sentences in another order, or cut to 70 %. A method takes
the texts one by one, as accepting does, and says of each whether it has seen its like. Precision and recall are against what was planted.

Each method runs in a process of its own, for a minute at most; memory is what it added to that process. Libraries that are not installed are left
out: `pip install datasketch rapidfuzz semhash`. semhash's own model comes from a hub; what is measured is its index over vectors of
hashed words, which needs none.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SHAPES = {"dialogues": (1600, 1200), "scenes": (1600, 60)}
EDITS = ("copy", "swap5", "swap10", "swap20", "reorder", "cut")
THRESHOLD = 0.5
SEED = 20231209


def corpus(shape: str) -> list[tuple[str, str | None]]:
    """Return (text, edit that made it or None) in the order of accepting."""
    count, length = SHAPES[shape]
    chance = random.Random(SEED)
    source = (ROOT / "characters/profiles/beethoven.md").read_text(encoding="utf-8")
    source += (ROOT / "characters/written/beethoven.md").read_text(encoding="utf-8")
    tokens = re.findall(r"[\w’'-]+[.!?,;:]?", re.sub(r"(?m)^#.*|\{#.*\}|^[A-Z]\w+:.*", "", source))
    chain: dict[str, list[str]] = {}
    for word, after in itertools.pairwise(tokens):
        chain.setdefault(word, []).append(after)
    texts: list[tuple[str, str | None]] = []
    for _ in range(count):
        word = chance.choice(tokens)
        said = [word]
        while len(said) < length:
            # Three words in ten come from anywhere: a model has more words than its source.
            word = chance.choice(chain.get(word, tokens) if chance.random() > 0.3 else tokens)
            said.append(word)
        texts.append((" ".join(said), None))
    for number in range(count // 10):
        edit = EDITS[number % len(EDITS)]
        texts.append((_edited(texts[number * 10][0], edit, tokens, chance), edit))
    return texts


def _edited(text: str, edit: str, tokens: list[str], chance: random.Random) -> str:
    said = text.split()
    if edit.startswith("swap"):
        for place in chance.sample(range(len(said)), len(said) * int(edit[4:]) // 100):
            said[place] = chance.choice(tokens)
    elif edit == "cut":
        said = said[: len(said) * 7 // 10]
    elif edit == "reorder":
        sentences = re.split(r"(?<=[.!?])\s+", text)
        if len(sentences) < 3:  # a scene may be one long sentence: move its halves
            sentences = [" ".join(said[len(said) // 2 :]), " ".join(said[: len(said) // 2])]
        else:
            chance.shuffle(sentences)
        return " ".join(sentences)
    return " ".join(said)


Flags = Iterator[bool]


def ours(texts: list[str]) -> Flags:
    """checks.Accepted as the build uses it: datasketch finds candidates, exact triples decide."""
    from charforge.checks import Accepted

    accepted = Accepted(THRESHOLD)
    for number, text in enumerate(texts):
        found = accepted.near_duplicate(text) is not None
        if not found:
            accepted.add(str(number), text)
        yield found


def index(texts: list[str]) -> Flags:
    """The exact Jaccard index, from an index of word triples to texts, as CharForge had it before."""
    from charforge.evidence import words

    sizes: list[int] = []
    having: dict[tuple[str, ...], list[int]] = {}
    for text in texts:
        said = words(text)
        triples = {tuple(said[i : i + 3]) for i in range(len(said) - 2)}
        shared = Counter(number for triple in triples for number in having.get(triple, ()))
        found = any(n / (len(triples) + sizes[number] - n) >= THRESHOLD for number, n in shared.items())
        if not found:
            for triple in triples:
                having.setdefault(triple, []).append(len(sizes))
            sizes.append(len(triples))
        yield found


def datasketch(texts: list[str]) -> Flags:
    """datasketch by itself: MinHash over word triples, candidates from LSH, then the estimated Jaccard index."""
    from datasketch import MinHash, MinHashLSH

    from charforge.evidence import words

    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    hashes: dict[int, MinHash] = {}
    for number, text in enumerate(texts):
        said = words(text)
        made = MinHash(num_perm=128, seed=1)
        made.update_batch([" ".join(said[i : i + 3]).encode() for i in range(max(1, len(said) - 2))])
        found = any(hashes[name].jaccard(made) >= THRESHOLD for name in lsh.query(made))
        if not found:
            hashes[number] = made
            lsh.insert(number, made)
        yield found


def rapidfuzz(texts: list[str]) -> Flags:
    """The share of characters in common order (Indel), pair by pair; strangers of one language share 50 to 60 %."""
    from rapidfuzz import fuzz, process

    kept: list[str] = []
    for text in texts:
        found = process.extractOne(text, kept, scorer=fuzz.ratio, score_cutoff=75) is not None
        if not found:
            kept.append(text)
        yield found


def rapidfuzz_words(texts: list[str]) -> Flags:
    """The same on sorted words (token_sort_ratio), which another order of sentences does not change."""
    from rapidfuzz import fuzz, process

    kept: list[str] = []
    for text in texts:
        words = " ".join(sorted(text.lower().split()))
        found = process.extractOne(words, kept, scorer=fuzz.ratio, score_cutoff=85) is not None
        if not found:
            kept.append(words)
        yield found


def semhash(texts: list[str]) -> Flags:
    """SemHash over hashed word triples, all texts at once: it has no way to add one text to an index."""
    import zlib

    import numpy as np
    from semhash import SemHash

    from charforge.evidence import words

    class Hashing:
        def encode(self, inputs: list[str], **_: object) -> object:
            made = np.zeros((len(inputs), 512), dtype=np.float32)
            for row, text in enumerate(inputs):
                said = words(text)
                for i in range(max(1, len(said) - 2)):
                    code = zlib.crc32(" ".join(said[i : i + 3]).encode())
                    made[row, code % 512] += 1 if code & 1024 else -1
            return made

    records = [{"id": str(number), "text": text} for number, text in enumerate(texts)]
    made = SemHash.from_records(records, columns=["text"], model=Hashing()).self_deduplicate(threshold=0.7)
    kept = {record["id"] for record in made.selected}
    yield from (str(number) not in kept for number in range(len(texts)))


METHODS: dict[str, Callable[[list[str]], Flags]] = {
    "checks.Accepted": ours,
    "exact index": index,
    "datasketch alone": datasketch,
    "rapidfuzz ratio": rapidfuzz,
    "rapidfuzz sorted words": rapidfuzz_words,
    "semhash": semhash,
}
PATIENCE = 60  # seconds for one method; what it has not judged by then is left


def measure(method: str, shape: str) -> dict[str, object]:
    """Run one method over one corpus in this process."""
    marked = corpus(shape)
    flags: list[bool] = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    try:
        for flag in METHODS[method]([text for text, _ in marked]):
            flags.append(flag)
            if time.perf_counter() - began > PATIENCE:
                break
    except ImportError as error:
        return {"error": str(error)}
    took = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    found: dict[str, object] = {"judged": len(flags), "ms": 1000 * took / len(flags), "mb": grown}
    if len(flags) < len(marked):
        return found
    edits = [edit for _, edit in marked]
    hits = sum(flag and edit is not None for flag, edit in zip(flags, edits, strict=True))
    by_edit = [
        sum(f for f, e in zip(flags, edits, strict=True) if e == edit) / edits.count(edit) for edit in EDITS
    ]
    return {
        **found,
        "precision": hits / max(1, sum(flags)),
        "recall": hits / sum(edit is not None for edit in edits),
        "by_edit": by_edit,
    }


def tables() -> Iterator[str]:
    """Yield the Markdown of RESULTS.md."""
    for shape, (count, length) in SHAPES.items():
        yield f"\n{count:,} {shape} of {length:,} words and {count // 10} near-copies:\n"
        head = "| method | ms a text | memory, imports included | precision | recall | "
        yield head + " | ".join(EDITS) + " |"
        yield "|---" * (5 + len(EDITS)) + "|"
        for method in METHODS:
            command = [sys.executable, __file__, "--method", method, "--corpus", shape]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            if "error" in found:
                yield f"| {method} | {found['error']} |" + " |" * (3 + len(EDITS))
            elif "recall" not in found:
                told = f"{found['ms']:.0f}, stopped after {found['judged']} texts"
                yield f"| {method} | {told} | {found['mb']:.0f} MB |" + " |" * (2 + len(EDITS))
            else:
                shares = [found["precision"], found["recall"], *found["by_edit"]]
                row = f"| {method} | {found['ms']:.2f} | {found['mb']:.0f} MB | "
                yield row + " | ".join(f"{share:.2f}" for share in shares) + " |"


def main() -> None:
    """Measure all methods, or, as a child process, one."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--method", choices=METHODS)
    options.add_argument("--corpus", choices=SHAPES)
    args = options.parse_args()
    if args.method:
        print(json.dumps(measure(args.method, args.corpus)))
        return
    for line in tables():
        print(line, flush=True)


if __name__ == "__main__":
    main()
