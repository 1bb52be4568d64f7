"""Which way of telling near-duplicates is right for the data set: the index of checks.Accepted, or a library?

    python bench/duplicates.py

Two corpora, made from the text of Beethoven's profile and written dialogues by a chain of word pairs, so that strangers share
phrases as real texts of one character do: 1,600 dialogues of 1,200 words, and 1,600 scenes of 60 words. One text in ten has a
near-copy further on: copied whole, with 5, 10 or 20 % of its words exchanged, with its sentences in another order, or cut to 70 %. A method takes
the texts one by one, as accepting does, and says of each whether it has seen its like. Precision and recall are against what was planted.

Each method runs in a process of its own; memory is what it added to that process. Libraries that are not installed are left
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


Seen = Callable[[str], bool]


def index() -> Seen:
    """The exact Jaccard index over word triples, as the build uses it."""
    from charforge.checks import Accepted

    accepted = Accepted()
    return _taking(accepted.near_duplicate, accepted.add)


def _taking(find: Callable[[str], object], add: Callable[[str, str], None]) -> Seen:
    names = iter(range(10**9))

    def seen(text: str) -> bool:
        if find(text):
            return True
        add(str(next(names)), text)
        return False

    return seen


def datasketch() -> Seen:
    """MinHash over word triples, candidates from LSH, then the estimated Jaccard index."""
    from datasketch import MinHash, MinHashLSH

    from charforge.evidence import words

    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=128)
    hashes: dict[str, MinHash] = {}

    def sketch(text: str) -> MinHash:
        said = words(text)
        made = MinHash(num_perm=128, seed=1)
        made.update_batch([" ".join(said[i : i + 3]).encode() for i in range(max(1, len(said) - 2))])
        return made

    def find(text: str) -> bool:
        made = sketch(text)
        return any(hashes[name].jaccard(made) >= THRESHOLD for name in lsh.query(made))

    def add(name: str, text: str) -> None:
        hashes[name] = sketch(text)
        lsh.insert(name, hashes[name])

    return _taking(find, add)


def rapidfuzz() -> Seen:
    """The share of characters in common order (Indel), pair by pair, in all cores; strangers of one language share 50 to 60 %."""
    from rapidfuzz import fuzz, process

    texts: list[str] = []

    def find(text: str) -> bool:
        return process.extractOne(text, texts, scorer=fuzz.ratio, score_cutoff=75) is not None

    return _taking(find, lambda _name, text: texts.append(text))


def rapidfuzz_tokens() -> Seen:
    """The same on sorted words (token_sort_ratio), which another order of sentences does not change."""
    from rapidfuzz import fuzz, process

    texts: list[str] = []

    def find(text: str) -> bool:
        text = " ".join(sorted(text.lower().split()))
        return process.extractOne(text, texts, scorer=fuzz.ratio, score_cutoff=85) is not None

    return _taking(find, lambda _name, text: texts.append(" ".join(sorted(text.lower().split()))))


def semhash() -> Seen:
    """SemHash over hashed word triples; it takes whole lists, so it is asked after each 100 texts."""
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

    held: dict[str, SemHash] = {}

    def find(text: str) -> bool:
        if "index" not in held:
            return False
        return not held["index"].deduplicate([text], threshold=0.7).selected

    def add(_name: str, text: str) -> None:
        if "index" not in held:
            held["index"] = SemHash.from_records([text], model=Hashing())
            held["texts"] = held["index"]
        else:
            raise NotImplementedError

    del add, find
    pending: list[str] = []

    def seen(text: str) -> bool:
        pending.append(text)
        return False

    seen.finish = lambda: _semhash_all(pending, SemHash, Hashing())  # type: ignore[attr-defined]
    return seen


def _semhash_all(texts: list[str], kind: object, model: object) -> list[bool]:
    """All at once: semhash has no way to add one text to an index."""
    marked = [f"{number}\t{text}" for number, text in enumerate(texts)]
    result = kind.from_records(  # type: ignore[attr-defined]
        [{"id": m.split("\t")[0], "text": m.split("\t")[1]} for m in marked], columns=["text"], model=model
    ).self_deduplicate(threshold=0.7)
    kept = {int(record["id"]) for record in result.selected}
    return [number not in kept for number in range(len(texts))]


METHODS: dict[str, Callable[[], Seen]] = {
    "checks.Accepted": index,
    "datasketch": datasketch,
    "rapidfuzz ratio": rapidfuzz,
    "rapidfuzz sorted words": rapidfuzz_tokens,
    "semhash": semhash,
}


def measure(method: str, shape: str) -> dict[str, object]:
    """Run one method over one corpus in this process."""
    texts = corpus(shape)
    began = time.perf_counter()
    try:
        seen = METHODS[method]()
    except ImportError as error:
        return {"error": str(error)}
    imported = time.perf_counter() - began
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    flags = [seen(text) for text, _ in texts]
    if hasattr(seen, "finish"):
        flags = seen.finish()
    took = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    planted = [edit for _, edit in texts]
    hits = sum(flag and edit is not None for flag, edit in zip(flags, planted, strict=True))
    by_edit = {
        edit: sum(f for f, e in zip(flags, planted, strict=True) if e == edit) / planted.count(edit)
        for edit in EDITS
    }
    return {
        "import_s": imported,
        "seconds": took,
        "ms": 1000 * took / len(texts),
        "mb": grown,
        "precision": hits / max(1, sum(flags)),
        "recall": hits / sum(edit is not None for edit in planted),
        "by_edit": by_edit,
    }


def tables() -> Iterator[str]:
    """Yield the Markdown of RESULTS.md."""
    for shape, (count, length) in SHAPES.items():
        yield f"\n{count:,} {shape} of {length:,} words and {count // 10} near-copies:\n"
        yield (
            "| method | seconds | ms a text | added memory | precision | recall | " + " | ".join(EDITS) + " |"
        )
        yield "|---" * (6 + len(EDITS)) + "|"
        for method in METHODS:
            command = [sys.executable, __file__, "--method", method, "--corpus", shape]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            if "error" in found:
                yield f"| {method} | {found['error']} |"
                continue
            yield (
                f"| {method} | {found['seconds']:.1f} | {found['ms']:.2f} | {found['mb']:.0f} MB "
                f"| {found['precision']:.2f} | {found['recall']:.2f} | "
                + " | ".join(f"{share:.2f}" for share in found["by_edit"].values())
                + " |"
            )


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
