"""The processes that train one model together: what each of them holds, and what they tell each other.

Distribution is torch.distributed's: FSDP2 (`fully_shard`) cuts every parameter, its gradient and its optimiser state into as
many parts as there are processes; layer by layer the whole parameters are put together for as long as they are multiplied
with. `World.alone()` is the same page of training with nobody to talk to.

Machines share no files. The first process reads the base weights and the samples; what the others have to know comes to them
as JSON (never pickled: nothing that arrives is run), weights come to them in parts.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
import transformers
from tokenizers import Tokenizer
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

import charforge
from charforge.errors import CharForgeError
from charforge.models.optimise import within_rounding
from charforge.models.passes import causal
from charforge.models.process import claim_stdout, die_with_parent
from charforge.models.rows import Packable, Row

_SILENCE = timedelta(minutes=30)
"""How long a process waits for the others: the first one reads the base weights and all samples meanwhile."""
_HELD = 0.4
"""Share of a device's memory that gradients of the whole model may take in float32, so that a step of several rows has one
exchange of gradients. Where they would take more they are exchanged after each row and only parts are kept."""
_NOTHING = Row((0, 0), (2,), (1,), ())
"""The shortest row there is."""

S = TypeVar("S", bound=Packable)


@dataclass(frozen=True, slots=True)
class World:
    """`rank` of `size` processes, `local_rank` of `local_size` on this machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device

    @staticmethod
    def alone() -> World:
        """One process, on the first GPU where there is one."""
        return World(
            0, 1, 0, 1, torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        )

    @staticmethod
    def join() -> World:
        """Find the others, as torchrun's environment variables say; CharForgeError where the machines do not fit together."""
        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        local_rank, local_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        device = torch.device("cpu")
        if torch.cuda.is_available():
            if local_size > torch.cuda.device_count():
                raise CharForgeError(
                    f"{local_size} processes on a machine with {torch.cuda.device_count()} GPUs",
                    "a GPU has one process: lower --processes",
                )
            device = torch.device("cuda", local_rank)
            torch.cuda.set_device(device)
        # Tensors in main memory are exchanged too: that is gloo's part also where there are GPUs.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, timeout=_SILENCE, device_id=device if device.type == "cuda" else None
        )
        world = World(rank, size, local_rank, local_size, device)
        world._compare()
        return world

    def _compare(self) -> None:
        """Other versions round differently, or send differently: better said than found out."""
        facts = {
            "charforge": charforge.__version__,
            "Python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "device": self.device.type,
        }
        for rank, theirs in enumerate(self.gather(facts)):
            for name, ours in facts.items():
                if theirs[name] != ours:
                    raise CharForgeError(
                        f"training processes differ in {name}: {ours} (process {self.rank}), {theirs[name]} (process {rank})",
                        "install the same versions on every machine",
                    )

    @property
    def main(self) -> bool:
        """Whether this is the process that reads and writes the user's files."""
        return self.rank == 0

    # -- telling each other

    def agree(self, value: Any) -> Any:
        """Return the first process's value (anything that JSON can say) in every process."""
        if self.size == 1:
            return value
        data = json.dumps(value).encode() if self.main else b""
        length = torch.tensor([len(data)])
        dist.broadcast(length, 0)
        buffer = (
            torch.frombuffer(bytearray(data), dtype=torch.uint8)
            if self.main
            else torch.empty(int(length), dtype=torch.uint8)
        )
        dist.broadcast(buffer, 0)
        return json.loads(buffer.numpy().tobytes())

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value (anything that JSON can say), by rank."""
        if self.size == 1:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.empty(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(data)]))
        longest = max(int(length) for length in lengths)
        buffers = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(buffers, nn.functional.pad(data, (0, longest - len(data))))
        return [
            json.loads(buffer[: int(length)].numpy().tobytes())
            for buffer, length in zip(buffers, lengths, strict=True)
        ]

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes, the same in each."""
        if self.size > 1:
            tensor = tensor.detach().clone()
            dist.all_reduce(tensor)
        return tensor

    def shares(self, samples: Sequence[S]) -> list[list[S]]:
        """Return each process's samples: the longest first, each to whoever has the fewest tokens; everyone's keep their order."""
        loads = [0] * self.size
        chosen: list[list[int]] = [[] for _ in range(self.size)]
        for i in sorted(range(len(samples)), key=lambda i: -len(samples[i].ids)):
            rank = min(range(self.size), key=lambda rank: loads[rank])
            loads[rank] += len(samples[i].ids)
            chosen[rank].append(i)
        return [[samples[i] for i in sorted(places)] for places in chosen]

    def rows(self, samples: Sequence[S], pack: Callable[[Sequence[S]], list[Row]]) -> tuple[list[Row], int]:
        """Return this process's rows of the samples, and how many of them count.

        Every process gets as many, because each takes part in putting every parameter together; short ones that count for nothing
        stand at the end where others have more.
        """
        packed = [pack(share) for share in self.shares(samples)]
        mine = packed[self.rank]
        return mine + [_NOTHING] * (max(map(len, packed)) - len(mine)), len(mine)

    def other_checkpoints(self, kept: Path) -> bool:
        """Say whether another number of processes has left checkpoints: parts of another size, which nothing here can use."""
        if self.size == 1:
            return any(kept.glob("*-of-*"))
        return any(each.name != kept.name for each in kept.parent.glob(f"{self.rank}-of-*")) or any(
            kept.parent.glob("step-*")
        )

    # -- one model in parts

    def same(self, model: Any, tokenizer: Any, dtype: torch.dtype) -> tuple[Any, Any]:
        """Return the first process's model and tokenizer; the others get the tokenizer and a skeleton of the model.

        What a skeleton's parameters will be, `shard` brings.
        """
        if self.size == 1:
            return model, tokenizer
        told = [model.config.to_dict(), tokenizer.backend_tokenizer.to_str()] if self.main else None
        config, words = self.agree(told)
        if self.main:
            return model, tokenizer
        return skeleton(config, dtype), PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(words))

    def shard(self, model: Any, dtype: torch.dtype) -> Any:
        """Return the model in parts, on this world's device; `model` itself where nobody shares it.

        `model` holds its weights in the first process; elsewhere it has the same shape and may be a `skeleton`. Trained
        parameters become float32, and are what the optimiser steps on; layers are multiplied in `dtype`.
        """
        if self.size == 1:
            return model
        return Sharded(model, dtype, self)

    def held_gradients(self, model: Any) -> int:
        """Return the bytes that gradients of the whole model take in each process during a step; 0 where only parts are kept."""
        seen = {id(parameter): parameter for parameter in model.parameters() if parameter.requires_grad}
        size = 4 * sum(parameter.numel() for parameter in seen.values())
        return int(self.agree(size if self.size > 1 and size <= _HELD * _memory(self) else 0))

    def exchange(self, model: Any, *, last: bool) -> None:
        """Say before each row's forward whether it is its step's last one in this process: gradients are exchanged then."""
        if isinstance(model, Sharded):
            model.exchange(last=last)

    def leave(self) -> None:
        """Wait until everyone is here, then part."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()


class Sharded(nn.Module):  # type: ignore[misc]
    """A causal language model whose forward gives what its head reads, [1, tokens, hidden size]; else it answers as the model does.

    FSDP puts a module's parameters together when that module is called, so the call has to be one of this, the outermost: the
    head is not called in it, but its weights stay whole until backward is through.
    """

    def __init__(self, model: Any, dtype: torch.dtype, world: World) -> None:
        super().__init__()
        names = {parameter: name for name, parameter in model.named_parameters()}
        tensors = [*model.named_parameters(), *model.named_buffers()]
        shapes = [
            [name, list(tensor.shape), str(tensor.dtype), tensor.requires_grad] for name, tensor in tensors
        ]
        if world.agree(shapes) != shapes:
            # Who waits for a parameter that another does not have would wait for ever.
            raise AssertionError(f"process {world.rank} has built another model than the first one")
        weights = {name: parameter.detach() for parameter, name in names.items()} if world.main else {}
        _replace(model, lambda parameter: parameter.to("meta"))
        self._plain = [copy.deepcopy(model)]  # in a list, so that it is no part of this module
        _replace(model, lambda parameter: parameter.float() if parameter.requires_grad else parameter)
        self.inner = model
        mesh = init_device_mesh(world.device.type, (world.size,))
        policy = MixedPrecisionPolicy(
            param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        layers = set(causal(model)._no_split_modules or ())  # noqa: SLF001 -- transformers has no public name for it
        for module in model.modules():
            if type(module).__name__ in layers:
                fully_shard(module, mesh=mesh, mp_policy=policy)
        fully_shard(self, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
        for module in self.modules():
            if isinstance(module, FSDPModule):
                # The loss is already divided by the step's tokens in all processes: gradients are added, not averaged.
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)
        self._fill(weights, mesh, world)
        for module in self.modules():
            if isinstance(module, FSDPModule):
                # The tensors that whole parameters are put into are made here: made while a loss is measured, in inference
                # mode, they would serve no backward.
                module.unshard()
                module.reshard()
        self.holds_gradients = world.held_gradients(self) > 0

    def _fill(self, weights: dict[str, torch.Tensor], mesh: DeviceMesh, world: World) -> None:
        """Hand every parameter's parts to their processes, one parameter after the other."""
        parts: dict[nn.Parameter, nn.Parameter] = {}
        for name, parameter in self.named_parameters():
            assert isinstance(parameter, DTensor)
            if world.main:
                whole = weights.pop(name.removeprefix("inner.")).to(world.device)
                # In the order in which one process alone draws its masters, so that they are the same.
                whole = within_rounding(whole) if parameter.requires_grad else whole.to(parameter.dtype)
            else:
                whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=world.device)
            part = distribute_tensor(whole, mesh, parameter.placements)
            parts[parameter] = nn.Parameter(part, requires_grad=parameter.requires_grad)
        _replace(self, parts.__getitem__)
        for module in self.modules():
            for name, buffer in module._buffers.items():  # noqa: SLF001 -- `to` would take the parameters along
                if buffer is not None:
                    own = (
                        buffer.to(world.device)
                        if world.main
                        else torch.empty_like(buffer, device=world.device)
                    )
                    dist.broadcast(own, 0)
                    module._buffers[name] = own  # noqa: SLF001

    def forward(self, **inputs: Any) -> Any:
        return causal(self.inner).base_model(**inputs)

    @property
    def base_model(self) -> Sharded:
        """What gives hidden states: this."""
        return self

    def __getattr__(self, name: str) -> Any:
        if name == "inner" or name in self._modules:
            return super().__getattr__(name)
        return getattr(causal(self.inner), name)

    def exchange(self, *, last: bool) -> None:
        """See `World.exchange` and `_HELD`."""
        FSDPModule.reshard(self)  # what a measurement has left whole is not what backward may keep
        FSDPModule.set_requires_gradient_sync(self, last or not self.holds_gradients)

    def gathered(self) -> Any:
        """Return the model in one piece in main memory, in the dtypes it came in, in the first process; None in the others.

        All have to call it.
        """
        FSDPModule.reshard(self)
        whole = copy.deepcopy(self._plain[0])
        names = dict(whole.named_parameters())
        state: dict[nn.Parameter, nn.Parameter] = {}
        for name, parameter in self.named_parameters():
            assert isinstance(parameter, DTensor)
            plain = names[name.removeprefix("inner.")]
            # Rounded before it travels: half the bytes.
            tensor = parameter.detach().to(plain.dtype).full_tensor()
            if dist.get_rank() == 0:
                state[plain] = nn.Parameter(tensor.cpu(), requires_grad=plain.requires_grad)
        if dist.get_rank() != 0:
            return None
        _replace(whole, state.__getitem__)
        return whole


def skeleton(config: dict[str, Any], dtype: torch.dtype) -> Any:
    """Return a causal language model of this configuration (`to_dict()`) that has shapes and no numbers: all on the meta device."""
    built = AutoConfig.for_model(
        config["model_type"], **{key: value for key, value in config.items() if key != "model_type"}
    )
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(built, dtype=dtype)


def _replace(model: nn.Module, make: Callable[[nn.Parameter], torch.Tensor]) -> None:
    """Put `make(parameter)` in each parameter's place; what was tied stays tied."""
    made: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():  # noqa: SLF001 -- setattr would ask FSDP's and peft's hooks
            if parameter is None:
                continue
            if parameter not in made:
                tensor = make(parameter)
                made[parameter] = (
                    tensor
                    if isinstance(tensor, nn.Parameter)
                    else nn.Parameter(tensor.detach(), requires_grad=parameter.requires_grad)
                )
            module._parameters[name] = made[parameter]  # noqa: SLF001


def _memory(world: World) -> int:
    """Return the bytes of memory a process has, busy or not."""
    if world.device.type == "cuda":
        return int(torch.cuda.get_device_properties(world.device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // world.local_size


def serve_member(
    work: Callable[[dict[str, Any], Callable[[dict[str, Any]], None], World], dict[str, Any]],
) -> None:
    """Main of each process that launch.py has started: join the others, `work(job, progress, world)`, say how it ended, exit.

    The job is the first process's; `kept` is a folder of this process's own, for a machine that joined in a folder of its own.
    """
    protocol = claim_stdout()
    die_with_parent()

    def send(message: dict[str, Any]) -> None:
        protocol.write(json.dumps(message) + "\n")
        protocol.flush()

    try:
        # stdin is a file that this machine's processes share, and with it the place up to which it is read.
        own = json.loads(os.pread(0, os.fstat(0).st_size, 0))
        world = World.join()
        job = world.agree(own)
        if job.get("kept"):
            kept = Path(job["kept"])
            if own["world"]["node_rank"] > 0:
                kept = Path(own["kept"]) / kept.name
            job["kept"] = str(kept / f"{world.rank}-of-{world.size}")
        result = work(
            job, (lambda progress: send({"progress": progress})) if world.main else lambda _: None, world
        )
        world.leave()
    except CharForgeError as error:
        _fail({"message": error.message, "told": error.message, "hint": error.hint})
    except Exception as error:  # noqa: BLE001
        traceback.print_exc()
        _fail({"message": "".join(traceback.format_exception_only(error)).strip()})
    if world.main:
        send({"result": result})


def _fail(message: dict[str, Any]) -> NoReturn:
    """Leave a note where torchrun looks for it and end at once: the others are not there to part from in good order."""
    now = time.time()
    Path(os.environ["TORCHELASTIC_ERROR_FILE"]).write_text(
        json.dumps(message | {"at": now, "timestamp": int(now)})
    )
    sys.stderr.flush()
    os._exit(1)
