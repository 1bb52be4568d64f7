"""How fast and how exact is training here? `python bench/training.py speed|stand|memory|loss|gpu`

speed   real (not padding) tokens/s of CharForge, of FastChat's way and of TRL's SFTTrainer, in rounds in one run, each in a
        process of its own that waits while another works; and the share of the machine's bfloat16 matrix peak, measured between them.
stand   what to stand on: a plain loop, accelerate, transformers' Trainer, TRL; speed, memory, import time, bits of two runs.
memory  the peak over weights, gradients and optimiser states, with gradient checkpointing at 2048 tokens.
loss    held-out loss after some steps: ours, all in float32, and bfloat16 weights without masters.
gpu     a 1B-class Llama from random weights on CUDA; says so where there is none.

TRL wants an environment of its own: `--peers-python /path/to/python` (torch, transformers, trl, datasets). `--interviews FOLDER`
takes its lengths and words from `*_sft.jsonl` files as the paper's authors published them; without it lengths are those
files' (numbers below) and words are random, which costs the same time.

Model FLOPs of n tokens: 6 · P · n, P all parameters, output matrix included (tied: once); attention's own, recomputation and
padding count nothing. So a method cannot look better by doing more; it does by leaving out logits nobody trains, as ours does, so
`strict` counts the output matrix at trained positions only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("GOMP_SPINCOUNT", "20000")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

ROOT = Path(__file__).resolve().parents[1]
NAME = "smollm2-135m-instruct"
LENGTH = 2048
# Tokens of 100 published interviews of two characters, rendered as SFT records.
LENGTHS = """478 478 492 506 516 536 547 552 562 568 579 579 579 580 587 598 601 609 612 614 619 620 621 627 629 635 639 640
643 652 655 658 659 661 668 670 679 682 683 685 688 692 693 697 699 704 705 708 712 715 722 722 727 731 738 739 741 749 750 751
755 759 760 767 770 771 774 777 780 782 788 800 805 810 830 832 840 842 847 867 874 883 884 889 890 893 894 902 903 907 914 919
922 929 944 971 983 989 1038 1141"""
PROMPT, TRAINED = 69, 0.6
"""Tokens of a prompt, and the trained share of the rest, in those files."""
META = "You are {}. Act, think and answer as they did: in the same voice and temper, out of the same life, in the words of that time."


# -- the samples: {"ids": [...], "targets": [places]}


def samples(tokenizer, folder: Path | None, seed: int = 0) -> list[dict]:
    draw = random.Random(seed)
    found = []
    if folder is None:
        for length in map(int, LENGTHS.split()):
            ids = [draw.randrange(1000, 40000) for _ in range(length)]
            turn = 40
            targets = [i for i in range(PROMPT, length) if (i - PROMPT) % turn < TRAINED * turn]
            found.append({"ids": ids, "targets": targets})
    else:
        for path in sorted(folder.glob("*_sft.jsonl")):
            lines = path.read_text(encoding="utf-8").splitlines()
            found += [_interview(tokenizer, json.loads(line)) for line in lines]
    draw.shuffle(found)
    return found


def _interview(tokenizer, record: dict) -> dict:
    from charforge.dialogue import EOT, render_prompt

    prompt = render_prompt(META.format(record["character"]), "Coffee house", record["topic"])
    ids = tokenizer(prompt)["input_ids"]
    targets: list[int] = []
    for turn in record["content"]:
        words = turn["turn_content"] if isinstance(turn["turn_content"], list) else [turn["turn_content"]]
        for part in words:
            more = tokenizer(f"{part['role']} {part['action']}: {part['content']}{EOT}\n")["input_ids"]
            if turn["turn_role"] == "character":
                targets += range(len(ids), len(ids) + len(more) - 1)
            ids += more
    return {"ids": ids, "targets": targets}


class Piece(NamedTuple):
    """What `rows.pack` wants."""

    ids: tuple[int, ...]
    targets: tuple[int, ...]


# -- contestants: each a child process that takes a step when told "go", and tells what it took


class Told:
    """The child's end: real stdout is the parent's, whatever libraries print goes to stderr."""

    def __init__(self) -> None:
        self.out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self.asked = iter(sys.stdin.readline, "")

    def say(self, **facts) -> None:
        self.out.write(json.dumps(facts) + "\n")

    def wait(self) -> bool:
        """Return whether to take another step."""
        return next(self.asked, "end").strip() == "go"


def digest(model) -> str:
    state = hashlib.sha256()
    for parameter in model.parameters():
        state.update(parameter.detach().cpu().contiguous().view(-1).view(_bytes()).numpy().tobytes())
    return state.hexdigest()


def _bytes():
    import torch

    return torch.uint8


def child(options) -> None:
    told, began = Told(), time.perf_counter()
    job = json.loads(Path(options.job).read_text())
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    kind = options.child
    if kind in ("ours", "plain"):
        loop = {"ours": ours, "plain": plain}[kind](job, told, began)
    elif kind == "accelerate":
        loop = accelerated(job, told, began)
    else:
        loop = trainer(kind, job, told, began)
    told.say(digest=digest(loop), peak=_peak())


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def steps(job: dict, told: Told):
    """Yield each step's samples when told to go on; tells its time when asked for the next."""
    at = 0
    while told.wait():
        some = job["samples"][at : at + job["batch"]]
        at = (at + job["batch"]) % (len(job["samples"]) - job["batch"] + 1)
        began = time.perf_counter()
        yield some
        told.say(tokens=sum(len(each["ids"]) for each in some), seconds=time.perf_counter() - began)


def ours(job: dict, told: Told, began: float):
    import torch

    sys.path.insert(0, str(ROOT))
    from charforge.models import passes
    from charforge.models.load import load_folder
    from charforge.models.optimise import Optimiser
    from charforge.models.rows import pack

    told.say(imported=time.perf_counter() - began)
    torch.use_deterministic_algorithms(True)
    model, _ = load_folder(Path(job["model"]), torch.bfloat16)
    passes.prepare(model)
    model.train()
    optimiser = Optimiser(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1, max_grad_norm=1.0)
    told.say(ready=True)
    for some in steps(job, told):
        made = [Piece(tuple(each["ids"]), tuple(each["targets"])) for each in some]
        targets = sum(len(each.targets) for each in made)
        for row in pack(made, LENGTH, packing=True):
            passes.backward(model, row, targets, recompute=False)
        optimiser.step(1e-5)
    return model


def _model(job: dict, dtype):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype).train()


def _labelled(sample: dict) -> dict:
    labels = [-100] * len(sample["ids"])
    for target in sample["targets"]:
        labels[target] = sample["ids"][target]
    return {"input_ids": sample["ids"], "labels": labels}


def padded(features: list[dict], length: int | None = None) -> dict:
    """Fill up at the right to `length` (None: the longest), with a mask, as FastChat's preprocessing and the usual collators do."""
    import torch

    most = length or max(len(each["input_ids"]) for each in features)
    rows: dict[str, list] = {"input_ids": [], "labels": [], "attention_mask": []}
    for each in features:
        more = most - len(each["input_ids"])
        rows["input_ids"].append([*each["input_ids"], *[0] * more])
        rows["labels"].append([*each["labels"], *[-100] * more])
        rows["attention_mask"].append([1] * (most - more) + [0] * more)
    return {name: torch.tensor(row) for name, row in rows.items()}


def plain(job: dict, told: Told, began: float):
    """A loop as anybody would write it: bfloat16 weights, AdamW on them, one sample a pass."""
    import torch
    import transformers  # noqa: F401

    told.say(imported=time.perf_counter() - began)
    model = _model(job, torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    told.say(ready=True)
    for some in steps(job, told):
        for each in some:
            batch = padded([_labelled(each)])
            (model(input_ids=batch["input_ids"], labels=batch["labels"]).loss / len(some)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return model


def accelerated(job: dict, told: Told, began: float):
    """The same over accelerate: float32 weights, its bfloat16 autocast, padding to the longest of the batch."""
    import torch
    import transformers  # noqa: F401
    from accelerate import Accelerator

    told.say(imported=time.perf_counter() - began)
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    model = _model(job, torch.float32)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-5))
    told.say(ready=True)
    for some in steps(job, told):
        loss = model(**padded([_labelled(each) for each in some])).loss
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return accelerator.unwrap_model(model)


def trainer(kind: str, job: dict, told: Told, began: float):
    """transformers' Trainer with FastChat's padding (`fastchat`) or to the longest (`trainer`), TRL's (`trl`, `trl-packed`).

    `fastchat` is its train.py by its arguments: float32 weights, bf16, gradient checkpointing, two samples a pass, every sample
    filled up to 2048 with a mask. Not its own script: the rest of that is this Trainer.
    """
    import torch
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

    out = tempfile.mkdtemp()
    usual = {
        "output_dir": out, "max_steps": 10_000, "report_to": [], "save_strategy": "no", "logging_strategy": "no",
        "learning_rate": 1e-5, "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    if kind.startswith("trl"):
        from datasets import Dataset
        from transformers import AutoTokenizer
        from trl import SFTConfig, SFTTrainer

        told.say(imported=time.perf_counter() - began)
        rows = [
            {
                "input_ids": each["ids"],
                "completion_mask": [int(i in places) for i in range(len(each["ids"]))],
            }
            for each in job["samples"]
            for places in [set(each["targets"])]
        ]
        # Its defaults, but for the length, which would cut samples, and the batch, which is everybody's.
        batch = (
            {"packing": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}
            if kind == "trl-packed"
            else {"per_device_train_batch_size": job["batch"]}
        )
        made = SFTTrainer(
            model=job["model"],
            args=SFTConfig(**usual, **batch, max_length=LENGTH),
            train_dataset=Dataset.from_list(rows),
            processing_class=AutoTokenizer.from_pretrained(job["model"]),
        )
    else:
        told.say(imported=time.perf_counter() - began)
        fast = kind == "fastchat"
        made = Trainer(
            model=_model(job, torch.float32),
            args=TrainingArguments(
                **usual, bf16=True, remove_unused_columns=False, gradient_checkpointing=fast,
                per_device_train_batch_size=2 if fast else job["batch"],
                gradient_accumulation_steps=job["batch"] // 2 if fast else 1,
            ),
            train_dataset=[_labelled(each) for each in job["samples"]],
            data_collator=lambda features: padded(features, LENGTH if fast else None),
        )  # fmt: skip
    count = {"tokens": 0, "began": 0.0}

    class Waits(TrainerCallback):
        def on_step_begin(self, _args, _state, _control, **_others) -> None:
            if not told.wait():
                told.say(digest=digest(made.model), peak=_peak())
                os._exit(0)
            count.update(tokens=0, began=time.perf_counter())

        def on_step_end(self, _args, _state, _control, **_others) -> None:
            told.say(tokens=count["tokens"], seconds=time.perf_counter() - count["began"])

    step = made.training_step

    def counted(model, inputs, *others, **more):
        mask = inputs.get("attention_mask")
        count["tokens"] += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
        return step(model, inputs, *others, **more)

    made.training_step = counted
    made._get_train_sampler = lambda *_args, **_others: SequentialSampler(made.train_dataset)  # noqa: SLF001
    made.add_callback(Waits())
    told.say(ready=True)
    made.train()
    return made.model


class Contestant:
    """The parent's end of a child."""

    def __init__(self, kind: str, python: str, job: Path) -> None:
        self.kind = kind
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- lives as long as the child
        self.process = subprocess.Popen(
            [python, __file__, "child", "--child", kind, "--job", str(job)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
        )  # fmt: skip
        self.imported = self.heard()["imported"]
        self.heard()
        self.speeds: list[float] = []

    def heard(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            sys.exit(f"{self.kind} ended:\n{self.log.read()[-3000:]}")
        return json.loads(line)

    def step(self) -> float:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        told = self.heard()
        return told["tokens"] / told["seconds"]

    def end(self) -> dict:
        self.process.stdin.write("end\n")
        self.process.stdin.close()
        told = self.heard()
        self.process.wait()
        return told


# -- what is measured


def peak() -> float:
    """GFLOP/s of bfloat16 matrix products of 2048 by 2048, the best of a few."""
    import torch

    a, b = torch.randn(2048, 2048).bfloat16(), torch.randn(2048, 2048).bfloat16()
    best = 0.0
    for _ in range(8):
        began = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * 2048**3 / (time.perf_counter() - began) / 1e9)
    return best


def job_file(folder: Path, options) -> tuple[Path, int, int, float]:
    """Write model and samples; return (job, parameters, those of the output matrix, trained share)."""
    from charforge.models.export import save_folder
    from charforge.models.load import load_embedded
    from charforge.models.vocabulary import add_end_of_turn

    model, tokenizer = load_embedded(NAME)
    add_end_of_turn(model, tokenizer)
    save_folder(model, tokenizer, folder / "model")
    made = samples(tokenizer, options.interviews)
    path = folder / "job.json"
    path.write_text(json.dumps({"model": str(folder / "model"), "samples": made, "batch": options.batch}))
    tokens = sum(len(each["ids"]) for each in made)
    print(
        f"{len(made)} samples, mean {tokens / len(made):.0f} tokens, {1 - tokens / len(made) / LENGTH:.0%} padding at {LENGTH}"
    )
    head = model.get_output_embeddings().weight.numel()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return path, parameters, head, sum(len(each["targets"]) for each in made) / tokens


def speed(options) -> None:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    kinds = options.only.split(",")
    with tempfile.TemporaryDirectory() as name:
        job, parameters, head, trained = job_file(Path(name), options)
        python = dict.fromkeys(("trl", "trl-packed"), options.peers_python)
        if options.peers_python is None:
            print("without TRL: name its environment with --peers-python")
            kinds = [kind for kind in kinds if kind not in python]
        contestants = [Contestant(kind, python.get(kind) or sys.executable, job) for kind in kinds]
        peaks = [peak()]
        for _ in range(options.rounds):
            for contestant in contestants:
                if not contestant.speeds and contestant.kind == "ours":
                    contestant.step()  # first use of everything
                contestant.speeds.append(contestant.step())
                peaks.append(peak())
                print(
                    f"  {contestant.kind:12}{contestant.speeds[-1]:8.0f} tokens/s   peak {peaks[-1]:.0f}",
                    flush=True,
                )
        best = statistics.median(peaks)
        print(
            f"\nmedians of {options.rounds} rounds, batch {options.batch}; peak {best:.0f} GFLOP/s ({min(peaks):.0f} to {max(peaks):.0f})"
        )
        print(f"{'':14}{'tokens/s':>9}{'ours is':>9}{'of peak':>9}{'strict':>8}{'memory GB':>11}")
        first = statistics.median(contestants[0].speeds)
        for contestant in contestants:
            told = contestant.end()
            rate = statistics.median(contestant.speeds)
            share, strict = (
                6 * p * rate / 1e9 / best for p in (parameters, parameters - head * (1 - trained))
            )
            print(
                f"{contestant.kind:14}{rate:9.0f}{first / rate:8.1f}×{share:9.0%}{strict:8.0%}{told['peak'] / 1e9:11.2f}"
            )


def stand(options) -> None:
    kinds = ["ours", "plain", "accelerate", "trainer", *(["trl"] if options.peers_python else [])]
    with tempfile.TemporaryDirectory() as name:
        job, *_ = job_file(Path(name), options)
        digests: dict[str, list[str]] = {kind: [] for kind in kinds}
        speeds: dict[str, list[float]] = {kind: [] for kind in kinds}
        facts: dict[str, tuple[float, int]] = {}
        for _ in range(2):
            for kind in kinds:
                contestant = Contestant(kind, options.peers_python if kind == "trl" else sys.executable, job)
                contestant.step()
                speeds[kind] += [contestant.step() for _ in range(options.rounds)]
                told = contestant.end()
                digests[kind].append(told["digest"])
                facts[kind] = (contestant.imported, told["peak"])
        print(f"{'':12}{'tokens/s':>9}{'memory GB':>11}{'import s':>10}  two runs")
        for kind in kinds:
            same = "same bits" if len(set(digests[kind])) == 1 else "differ"
            imported, memory = facts[kind]
            print(
                f"{kind:12}{statistics.median(speeds[kind]):9.0f}{memory / 1e9:11.2f}{imported:10.1f}  {same}"
            )


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise ValueError(field)


def memory(_options) -> None:
    """Peak of a process that trains rows of 2048 tokens, less what it has with torch and transformers loaded and no model."""
    import torch

    from charforge.models import passes
    from charforge.models.load import load_folder
    from charforge.models.optimise import Optimiser
    from charforge.models.rows import Row

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory() as name:
        # In a process of its own: making the folder leaves memory behind.
        subprocess.run([sys.executable, __file__, "folder", "--job", name], check=True)
        peak()
        base = _status("VmRSS")
        model, _ = load_folder(Path(name), torch.bfloat16)
        passes.prepare(model)
        model.train()
        parameters = sum(parameter.numel() for parameter in model.parameters())
        optimiser = Optimiser(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1, max_grad_norm=1.0)
        draw = random.Random(0)
        needed = parameters * 16
        for recompute in (True, False):
            for _ in range(2):
                Path("/proc/self/clear_refs").write_text("5")
                ids = tuple(draw.randrange(1000, 40000) for _ in range(LENGTH))
                row = Row(ids, (LENGTH,), tuple(i for i in range(1, LENGTH) if i % 10 < 10 * TRAINED), (0,))
                passes.backward(model, row, len(row.targets), recompute=recompute)
                optimiser.step(1e-5)
                most = _status("VmHWM") - base
            print(
                f"checkpointing {'on ' if recompute else 'off'}: peak {most / 1e9:.2f} GB over "
                f"{needed / 1e9:.2f} GB of weights, gradients, masters and moments: {most / needed:.2f} ×"
            )


def loss(options) -> None:
    """Train on the characters' own pages, hold every fifth paragraph out."""
    import torch

    from charforge.models import passes
    from charforge.models.load import load_embedded
    from charforge.models.optimise import Optimiser
    from charforge.models.rows import pack

    torch.set_num_threads(len(os.sched_getaffinity(0)))

    class Rounded:
        """AdamW on bfloat16 weights, which forget what is smaller than their last digit."""

        def __init__(self, parameters, **_settings) -> None:
            self.parameters = list(parameters)
            self.inner = torch.optim.AdamW(self.parameters, betas=(0.9, 0.95), weight_decay=0.1)

        def step(self, rate: float) -> None:
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.inner.param_groups[0]["lr"] = rate
            self.inner.step()
            self.inner.zero_grad()

    ways = {
        "bfloat16, float32 masters (ours)": (torch.bfloat16, Optimiser),
        "float32": (torch.float32, Optimiser),
        "bfloat16 alone": (torch.bfloat16, Rounded),
    }
    print(f"held-out loss, learning rate {options.rate}, {options.steps} steps of 8 paragraphs")
    for name, (dtype, kind) in ways.items():
        model, tokenizer = load_embedded(NAME, dtype)
        passes.prepare(model)
        pages = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "characters").rglob("*.md"))]
        paragraphs = [part for page in pages for part in page.split("\n\n") if len(part.split()) > 30]
        encoded = [tuple(tokenizer(part)["input_ids"]) for part in paragraphs]
        made = [Piece(ids, tuple(range(1, len(ids)))) for ids in encoded]
        held, training = made[::5], [each for i, each in enumerate(made) if i % 5]
        rows, count = pack(held, LENGTH, packing=True), sum(len(each.targets) for each in held)
        torch.manual_seed(0)  # masters are drawn
        optimiser = kind(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1, max_grad_norm=1.0)
        draw, losses = random.Random(0), []
        for step in range(options.steps + 1):
            if step % max(1, options.steps // 4) == 0:
                losses.append(sum(passes.measure(model.eval(), rows)) / count)
            some = draw.sample(training, min(8, len(training)))
            targets = sum(len(each.targets) for each in some)
            model.train()
            for row in pack(some, LENGTH, packing=True):
                passes.backward(model, row, targets, recompute=False)
            optimiser.step(options.rate)
        print(f"{name:34}" + "".join(f"{value:9.4f}" for value in losses), flush=True)


def gpu(options) -> None:
    """1.1B parameters, rows of 2048; warns of every wait for the GPU inside the loop."""
    import warnings

    import torch

    if not torch.cuda.is_available():
        sys.exit("no CUDA device here: nothing measured")
    from transformers import LlamaConfig, LlamaForCausalLM

    from charforge.models import passes
    from charforge.models.optimise import Optimiser
    from charforge.models.rows import pack

    config = LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
        num_key_value_heads=4, max_position_embeddings=LENGTH,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    passes.prepare(model)
    model.train()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    optimiser = Optimiser(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1, max_grad_norm=1.0)
    made = [
        Piece(tuple(t % 32000 for t in each["ids"]), tuple(each["targets"])) for each in samples(None, None)
    ]
    rows = pack(made, LENGTH, packing=True)
    tokens, targets = sum(len(row.ids) for row in rows), sum(len(row.targets) for row in rows)
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for timed in (False, True):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(20):
            a @ a
        torch.cuda.synchronize()
        best = 20 * 2 * 8192**3 / (time.perf_counter() - began) / 1e12
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
        began = time.perf_counter()
        with warnings.catch_warnings(record=True) as waits:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            for row in rows:
                passes.backward(model, row, targets, recompute=options.recompute)
            optimiser.step(1e-5)
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        if timed:
            flops = 6 * parameters * tokens / seconds / 1e12
            print(
                f"{torch.cuda.get_device_name()}: {parameters / 1e9:.2f}B parameters, {tokens / seconds:.0f} tokens/s, "
                f"{flops:.0f} TFLOP/s = {flops / best:.0%} of {best:.0f} measured in matrix products, "
                f"peak {torch.cuda.max_memory_allocated() / 1e9:.1f} GB, {len(waits)} waits in the loop"
            )
            for wait in waits[:5]:
                print(f"  {wait.filename}:{wait.lineno} {wait.message}")


def folder(options) -> None:
    from charforge.models.export import save_folder
    from charforge.models.load import load_embedded

    save_folder(*load_embedded(NAME), Path(options.job))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "what", choices=["speed", "stand", "memory", "loss", "gpu", "child", "folder"], help="see above"
    )
    parser.add_argument("--interviews", type=Path, help="folder of *_sft.jsonl files")
    parser.add_argument("--peers-python", help="interpreter of an environment with trl and datasets")
    parser.add_argument("--only", default="ours,fastchat,trl,trl-packed", help="contestants of speed")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4, help="samples in a step, even")
    parser.add_argument("--steps", type=int, default=24, help="of loss")
    parser.add_argument("--rate", type=float, default=1e-5, help="learning rate of loss")
    parser.add_argument("--recompute", action="store_true", help="gpu: gradient checkpointing")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    options = parser.parse_args()
    globals()[options.what](options)


if __name__ == "__main__":
    main()
