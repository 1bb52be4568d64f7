"""What a GGUF export loses: perplexity on held-out dialogues by type, and llama.cpp held against transformers.

    python bench/exports.py [SPEC] [-n ANSWERS]

Exports the last build of a character (default: beethoven) in every type, with `--measure`, to a temporary folder. Then the f16 file
answers probe questions in llama.cpp, greedily, and each token's log-probability is compared with transformers' in float32 on the same text.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

QUESTIONS = (
    "Good evening. Who are you?",
    "Who taught you music?",
    "What do you think of princes?",
    "Do you listen to the radio?",
    "Why did you leave Bonn?",
    "What is the matter with your ears?",
    "Whom do you love?",
    "What are you working on now?",
)


def charforge(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "charforge", *words], check=True)


def compare(folder: Path, hf: Path, count: int) -> None:
    """Print how far llama.cpp's log-probabilities of its own greedy answers are from transformers'."""
    import torch
    import xllamacpp

    from charforge import exports
    from charforge.models.load import load_folder

    facts = json.loads((folder / "charforge.json").read_text(encoding="utf-8"))
    params = xllamacpp.CommonParams()
    params.model.path = str(next(folder.glob("*-f16.gguf")))
    params.n_ctx = 1024
    params.n_parallel = 1
    params.verbosity = -1
    server = xllamacpp.Server(params)
    model, tokenizer = load_folder(hf, torch.float32)
    apart, same_tokens, same_choice, tokens = [], 0, 0, 0
    for question in QUESTIONS:
        prompt = exports.prompt(facts).replace(exports.QUESTION, question) + "speaking):"
        ids = tokenizer(prompt)["input_ids"]
        asked = {"prompt": prompt, "n_predict": count, "temperature": 0, "n_probs": 1, "return_tokens": True}
        request = urllib.request.Request(
            server.listening_address + "/completion",
            json.dumps(asked).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as reply:
            answer = json.load(reply)
        same_tokens += answer["tokens_evaluated"] == len(ids)
        steps = answer["completion_probabilities"]
        written = [step["id"] for step in steps]
        with torch.inference_mode():
            scores = model(torch.tensor([ids + written])).logits[0, len(ids) - 1 : -1].log_softmax(-1)
        for step, row in zip(steps, scores, strict=True):
            apart.append(abs(step["logprob"] - float(row[step["id"]])))
            same_choice += int(row.argmax()) == step["id"]
            tokens += 1
    print(f"llama.cpp, f16: {len(QUESTIONS)} questions, {tokens} tokens answered greedily")
    print(f"  prompts of as many tokens as with transformers: {same_tokens} of {len(QUESTIONS)}")
    print(f"  transformers would have taken the same token: {same_choice} of {tokens}")
    print(f"  log-probabilities apart: {sum(apart) / len(apart):.4f} on average, {max(apart):.4f} at most")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("spec", nargs="?", default="beethoven")
    parser.add_argument("-n", type=int, default=32, help="tokens an answer (default: 32)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, hf = Path(scratch) / "gguf", Path(scratch) / "hf"
        charforge("export", "gguf", args.spec, "--type", "all", "--measure", "--out", str(folder))
        charforge("export", "hf", args.spec, "--out", str(hf))
        facts = json.loads((folder / "charforge.json").read_text(encoding="utf-8"))
        size = (hf / "model.safetensors").stat().st_size
        before = facts["perplexity"]
        print(f"{'type':8} {'MB':>8} {'perplexity':>11} {'change':>9}")
        print(f"{'bf16':8} {size / 1e6:8.1f} {before:11.3f}")
        for file in sorted(facts["files"].values(), key=lambda file: -file["bytes"]):
            change = file["perplexity"] / before - 1
            print(
                f"{file['type']:8} {file['bytes'] / 1e6:8.1f} {file['perplexity']:11.3f} {change:+9.2%}"
                + (f"  (a weight changed by {file['rounded']:.1e} at most)" if file["rounded"] else "")
            )
        compare(folder, hf, args.n)


if __name__ == "__main__":
    main()
