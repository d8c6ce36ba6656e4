"""A model divided over several processes: each holds a part of every weight, gathered block by block while they are used (FSDP).

Zhao et al., 2023 (arXiv 2304.11277), as torch's ``fully_shard`` does it. Every function here is called by all processes together.
"""

import copy

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ..denoiser import Denoiser


class Shards:
    """How a model, divided in place, and its copies are divided over ``world_size`` processes. ValueError for no `Denoiser`."""

    def __init__(self, model: nn.Module, world_size: int, device: torch.device):
        if not isinstance(model, Denoiser):
            raise ValueError("shard divides a Denoiser over the processes: leave it out for other models")
        self.blank, self.mesh = copy.deepcopy(model).cpu(), init_device_mesh(device.type, (world_size,))
        self.divide(model)

    def divide(self, model: nn.Module) -> nn.Module:
        """Divide a whole model in place: block by block, then what is left."""
        lists = [m for m in model.modules() if isinstance(m, nn.ModuleList | nn.ModuleDict)]
        for block in (child for several in lists for child in several.children()):
            if next(block.parameters(), None) is not None:
                fully_shard(block, mesh=self.mesh)
        # The outermost would stay whole after a forward pass, waiting for a backward pass that a target never has.
        fully_shard(model, mesh=self.mesh, reshard_after_forward=True)
        return model

    def whole(self, model: nn.Module) -> Denoiser:
        """A whole copy on the CPU of a divided model."""
        made = copy.deepcopy(self.blank)
        made.load_state_dict({name: gathered(value) for name, value in model.state_dict().items()})
        return made

    def copy(self, model: nn.Module) -> nn.Module:
        """A divided copy of a divided model that takes no gradient."""
        return self.divide(self.whole(model).to(self.mesh.device_type).requires_grad_(False))

    def gather(self, tensors: dict[str, Tensor], keep: bool) -> dict[str, Tensor]:
        """All tensors put together; only processes with ``keep`` store them."""
        return {name: whole for name, value in tensors.items() if (whole := gathered(value)) is not None and keep}

    def send(self, model: nn.Module, now: bool) -> None:
        """Whether the next backward pass ends with the sum over the processes, or gradients are added up here first."""
        assert isinstance(model, FSDPModule)
        model.set_requires_gradient_sync(now)


def gathered(value: Tensor) -> Tensor:
    """A tensor of which each process may hold a part, whole and on the CPU."""
    return (value.full_tensor() if isinstance(value, DTensor) else value).detach().cpu()


def part_of(whole: Tensor, like: Tensor) -> Tensor:
    """This process's part of a tensor that all have, divided as ``like`` is."""
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
