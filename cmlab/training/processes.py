"""Training in several processes: which rows of a batch are whose, and how numbers are shared.

A launcher starts the processes and tells each of them its place in the environment: ``torchrun``, or another that sets the same
variables, as ``accelerate launch --multi_gpu`` does. Without one there is one process, and nothing here costs anything.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Processes:
    """``world_size`` processes that train one model together, of which this is number ``rank``, ``local_rank`` on its host.

    ``shard``: each of them holds a part of the weights, averages and optimizer. Raises ValueError for one alone.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    shard: bool = False

    def __post_init__(self):
        if self.shard and self.world_size == 1:
            raise ValueError("shard divides a model over several processes, this is one: start more (torchrun), or leave it out")

    @property
    def is_main_process(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def rows(self, batch: int) -> range:
        """The rows of a batch that are this process's own; raises ValueError unless all get equally many."""
        if batch % self.world_size:
            below = batch - batch % self.world_size
            near = f"{f'{below} or ' if below else ''}{below + self.world_size}"
            wrong = f"batch {batch} does not divide over {self.world_size} processes"
            raise ValueError(f"{wrong}: choose {near}, or start another number of processes")
        share = batch // self.world_size
        return range(self.rank * share, (self.rank + 1) * share)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes, in each of them."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def any(self, flags: list[bool], device: torch.device) -> list[bool]:
        """Each flag, true where any process says so."""
        if self.world_size == 1:
            return flags
        return [bool(n) for n in self.sum(torch.tensor(flags, dtype=torch.int32, device=device)).tolist()]

    def share(self, value: object) -> object:
        """The first process's ``value``, in all of them."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


ALONE = Processes()


def from_environment(shard: bool = False) -> Processes:
    """What the launcher says; raises ValueError where it asks for something that cmlab's own options decide."""
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in ("no", ""):
        raise ValueError(f"accelerate asks for mixed precision {precision}: say --mixed_precision no there, --precision here")
    for name in ("FSDP", "DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true":
            raise ValueError(f"accelerate asks for {name}: launch with --multi_gpu, and say --shard here for FSDP")
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        raise ValueError("accelerate asks for a compiler: leave out --dynamo_backend there, say --compile here")
    if "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        way = "tell it, and on CPUs say --device cpu here (or use torchrun)"
        raise ValueError(f"accelerate starts one process for all of --num_processes unless it is told --multi_gpu: {way}")
    place = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
    return Processes(*(int(os.environ.get(name, default)) for name, default in place.items()), shard=shard)


@contextmanager
def joined(processes: Processes, device: torch.device) -> Iterator[None]:
    """Run a block in which the processes can talk: over NCCL from GPUs, over gloo from CPUs, or as they already do."""
    if processes.world_size == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def leave(status: int) -> NoReturn:
    """End this program with ``status``: to be called last, when all files are closed.

    One of several processes ends without the interpreter's own tidying up: torch's caches keep threads of the process group beyond
    ``destroy_process_group`` (torch 2.14), and once in some hundred runs a finished process was aborted on its way out.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        for stream in (sys.stdout, sys.stderr):
            with suppress(ValueError, OSError):  # closed, or its reader has gone
                stream.flush()
        os._exit(status)
    sys.exit(status)
