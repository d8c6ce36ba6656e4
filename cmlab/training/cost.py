"""What a training will cost, before it starts: images, evaluations of the network, floating-point operations, memory."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..data import DATASETS, load_data
from ..data.names import fact, split_name
from ..denoiser import Denoiser
from ..networks import build_network
from .experiment import Preset
from .processes import ALONE, Processes

__all__ = ["cost", "forward_flops", "memory", "sample_shape"]


def sample_shape(preset: Preset) -> tuple[int, ...] | None:
    """The shape of one sample, without looking for files; None where only the files know it."""
    name = split_name(preset.data)[0]
    shape = fact(name, "shape", None)
    if shape is None and name in DATASETS.of_kind("toy", "images"):
        return tuple(load_data(name).shape)
    return (shape[0], preset.resolution, preset.resolution) if shape and preset.resolution else shape


def forward_flops(preset: Preset, shape: tuple[int, ...]) -> int:
    """Floating-point operations of one evaluation for one sample, of linear layers, convolutions, matrix products and attention.

    A multiplication and an addition are two. Nothing is computed: the network is given a batch of no samples.
    """
    with torch.no_grad(), _Operations() as counter:
        net = build_network(preset.network, shape, 0).eval()
        net(torch.zeros(0, *shape), torch.zeros(0))
    return 2 * counter.products


def _last(out: Tensor, x: Tensor, *_: Any) -> int:
    return math.prod(out.shape[1:]) * x.shape[-1]


# Multiplications for one sample, from the output of a function and its first arguments; the first size is the batch's.
_PRODUCTS: dict[Any, Callable[..., int]] = {
    **dict.fromkeys((F.linear, torch.matmul, torch.bmm, Tensor.matmul, Tensor.bmm, Tensor.__matmul__), _last),
    F.scaled_dot_product_attention: lambda out, q, k, *_: math.prod((*q.shape[1:], k.shape[-2])) + _last(out, k.mT),
    **dict.fromkeys((F.conv1d, F.conv2d, F.conv3d), lambda out, x, weight, *_: math.prod((*out.shape[1:], *weight.shape[1:]))),
    **dict.fromkeys(
        (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
        lambda out, x, weight, *_: math.prod((*x.shape[1:], *weight.shape[1:])),
    ),
}


class _Operations(TorchFunctionMode):
    """Counts for one sample what is done with a batch of none, and draws no weights. torch's counter takes seconds to import."""

    products = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.uniform_, Tensor.normal_) or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        out = func(*args, **kwargs)
        if func is F.pixel_unshuffle:  # torch leaves the shape of an empty batch as it is
            (n, c, h, w), r = args[0].shape, args[1]
            return out.new_empty(n, c * r * r, h // r, w // r)
        if func in _PRODUCTS:
            self.products += _PRODUCTS[func](out, *args)
        return out


def cost(preset: Preset) -> str:
    """One line for the help of 'cmlab train'; "" where the shape of the data is not known without its files."""
    shape = sample_shape(preset)
    if shape is None:
        return ""
    each, times, seen = forward_flops(preset, shape), preset.loss.evaluations, preset.steps * preset.batch
    total = each * times * seen
    text = f"cost: {_short(seen)} samples x {times} evaluations of {_short(each)} operations = {_short(total)}"
    if total < 1e17 or len(shape) == 1:
        return text
    hours = total / 1e14 / 3600
    perceptual = ", without the perceptual distance" if "lpips" in str(preset.loss) else ""
    return f"{text}{perceptual}: {hours:,.0f} hours of one GPU at 100 TFLOP/s, an assumption"


def _short(n: float) -> str:
    for unit, name in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if n >= unit:
            return f"{n / unit:.3g} {name}"
    return f"{n:.3g}"


def memory(model: Denoiser, preset: Preset, processes: Processes = ALONE) -> str:
    """What a training will take, in words; "" for less than a gigabyte.

    Counted are weights, gradients, two moments of the optimizer, averages, target and teacher, and what one forward pass of a
    sample without numbers keeps. Work space of the kernels and a perceptual distance come on top.
    """
    count = sum(p.numel() for p in model.parameters())
    copies = 4 + len(preset.averages) + preset.loss.needs_target + (preset.teacher not in ("", "oracle"))
    fixed = 4 * count * copies
    if fixed < 2**26:
        return ""
    rows = preset.batch // preset.accumulate
    kept = kept_for_backward(model) // (1 if preset.precision == "float32" else 2) * rows
    if fixed + kept < 2**30:
        return ""
    divided = f" (divided by {processes.world_size})" if processes.shard else ""
    numbers = f"{fixed / 2**30:.1f} GiB for {copies} x {count / 1e6:.1f} M numbers{divided}"
    activations = f"{kept / 2**30:.1f} GiB for the activations of {rows} samples"
    ways = "shared by the processes; --accumulate divides it, --network.recompute makes it smaller"
    return f"memory: about {numbers}, and {activations} ({ways})"


def kept_for_backward(model: Denoiser) -> int:
    """Bytes that a forward pass of one sample keeps for the backward pass, in float32."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            sizes[storage._cdata] = storage.nbytes()
            held.append(tensor)  # as long as it lives no other storage takes its place
        return tensor

    held: list[Tensor] = []
    config: Any = replace(model.config, dropout=0.0)
    with torch.device("meta"):
        net = build_network(config, model.shape, model.classes)
        x, level = torch.empty(1, *model.shape), torch.empty(1)
        label = torch.zeros(1, dtype=torch.int64) if model.classes else None
    weights = {p.untyped_storage()._cdata for p in net.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        net(x, level, label)
    return sum(size for storage, size in sizes.items() if storage not in weights)
