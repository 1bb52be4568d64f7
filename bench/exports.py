"""What a GGUF export loses: perplexity on held-out dialogues by type, and llama.cpp held against transformers.

    python bench/exports.py [SPEC] [-n ANSWERS]

Exports the last build of a character (default: beethoven) to a temporary folder, writes its weights in every type, and measures each (dequantised, in
float32). Then the f16 file answers probe questions in llama.cpp, greedily, and each token's log-probability is compared with transformers'
in float32 on the same text.
"""

from __future__ import annotations

import argparse
import json
import math
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


def compare(file: Path, hf: Path, count: int) -> None:
    """Print how far llama.cpp's log-probabilities of its own greedy answers are from transformers'."""
    import torch
    import xllamacpp

    from charforge import exports
    from charforge.models.load import load_folder

    facts = json.loads((hf / "charforge.json").read_text(encoding="utf-8"))
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
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
            # The rows that fill the vocabulary up are no tokens, and not in the file; without them both share out the same 1.
            logits = model(torch.tensor([ids + written])).logits[0, len(ids) - 1 : -1, : len(tokenizer)]
        scores = logits.log_softmax(-1)
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
        hf, data = Path(scratch) / "hf", Path(scratch) / "dataset"
        charforge("export", "hf", args.spec, "--out", str(hf))
        charforge("export", "dataset", args.spec, "--out", str(data))
        measure(hf, data / "sft.jsonl")
        compare(hf / "f16.gguf", hf, args.n)


def measure(hf: Path, sft: Path) -> None:
    """Write every type beside the folder's weights and print what each costs."""
    from charforge.models import gguf_file
    from charforge.models.perplexity import perplexities

    facts = json.loads((hf / "charforge.json").read_text(encoding="utf-8"))
    held_out = set(facts["summary"]["held_out"])
    lines = (json.loads(line) for line in sft.read_text(encoding="utf-8").splitlines())
    records = [record for record in lines if record["source"]["id"] in held_out]
    settings = {
        "character": facts["character"]["short_name"],
        "loss": facts["train"]["loss"],
        "context": facts["train"]["context_length"],
    }
    files = [hf / f"{kind}.gguf" for kind in gguf_file.TYPES]
    written = [gguf_file.write(hf, file, file.stem, name="bench") for file in files]
    before, *after = perplexities(hf, files, records, settings)
    print(f"{len(records)} held-out dialogues; before training {math.exp(facts['summary']['base_loss']):.3f}")
    print(f"{'type':8} {'MB':>8} {'perplexity':>11} {'change':>9}")
    print(f"{'bf16':8} {(hf / 'model.safetensors').stat().st_size / 1e6:8.1f} {before:11.3f}")
    for file, facts_, perplexity in zip(files, written, after, strict=True):
        print(f"{file.stem:8} {facts_.bytes / 1e6:8.1f} {perplexity:11.3f} {perplexity / before - 1:+9.2%}")


if __name__ == "__main__":
    main()
