"""What a training will cost, from its preset alone: images, evaluations of the network, floating-point operations."""

import torch
from torch.utils.flop_counter import FlopCounterMode

from .continuous import ContinuousLoss, SCMLoss
from .data import DATASETS, load_data, split_name
from .experiment import Preset
from .losses import ConsistencyLoss, ProgressiveLoss
from .networks import build_network
from .published import FOLDERS

__all__ = ["cost", "evaluations", "forward_flops", "sample_shape"]


def sample_shape(preset: Preset) -> tuple[int, ...] | None:
    """The shape of one sample, without looking for files; None where only the files know it."""
    name = split_name(preset.data)[0]
    if name in DATASETS:
        return tuple(load_data(name).shape)
    if name == "cifar10":
        return (3, 32, 32)
    return (3, preset.resolution, preset.resolution) if name in FOLDERS and preset.resolution else None


def forward_flops(preset: Preset, shape: tuple[int, ...]) -> int:
    """Floating-point operations of one evaluation for one sample; a multiplication and an addition are two. Nothing is computed."""
    with torch.device("meta"):
        net = build_network(preset.network, shape, 0).eval()
        x, level = torch.zeros(1, *shape), torch.zeros(1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x, level)
    return counter.get_total_flops()


def evaluations(preset: Preset) -> int:
    """What one sample of a step costs, in forward evaluations of the network: 3 for the gradient, more for target and teacher."""
    loss = preset.loss
    if isinstance(loss, ConsistencyLoss):
        return 3 + 1 + {"noise": 0, "euler": 1, "heun": 2, "midpoint": 2}[loss.bridge]
    if isinstance(loss, ProgressiveLoss):
        return 3 + 2  # two steps of the teacher
    if isinstance(loss, ContinuousLoss | SCMLoss):
        return 3 + 2 + loss.needs_teacher  # the tangent is an evaluation and its derivative
    return 3


def cost(preset: Preset) -> str:
    """One line for the help of 'cmlab train'; "" where the shape of the data is not known without its files."""
    shape = sample_shape(preset)
    if shape is None:
        return ""
    each, times, seen = forward_flops(preset, shape), evaluations(preset), preset.steps * preset.batch
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
