"""What `run.py` measures, and how: rows of several contestants, by turns, each beside its floor. See there."""

import copy
import ctypes
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from cmlab.base.rng import global_seed
from cmlab.data import load_data
from cmlab.data.sets import Data, PixelData
from cmlab.denoiser import CONSISTENCY, EDM, Denoiser
from cmlab.losses import EDMLoss, Loss, cd, ct
from cmlab.methods.continuous import attach_uncertainty
from cmlab.networks import build_network
from cmlab.networks.layers import compile_blocks, orders_by_pixel
from cmlab.samplers import sample
from cmlab.training import fit
from cmlab.training.cost import forward_flops
from cmlab.training.presets import Preset
from cmlab.training.trainer import PRECISIONS, compute_in, has_bf16

# The evaluations of a sample that a row cannot do without: passes forward alone, and forward and backward.
FORWARD, FEW, BACKWARD = "forward", "forward of few", "forward + backward"
ROWS = {
    FORWARD: (1, 0), FEW: (1, 0), BACKWARD: (0, 1), "EDM step": (0, 1), "CT step": (1, 1), "CD step": (3, 1), "own step": (0, 1),
    "one step": (1, 0), "Heun 18": (35, 0),
}  # fmt: skip
OF_FEW = (FEW, "Heun 18")
LOSSES = {"EDM step": EDMLoss(), "CT step": ct(), "CD step": cd()}
Calls = Mapping[str, Callable[[], object]]


class Given(NamedTuple):
    """What is to be measured.

    Args:
        net: a network in float32 on the device, to be changed at will, called as ``net(x, c_noise)`` with c_noise (B,).
        x0: (batch, *S), samples in their range.
        few: how many of them the long sampler draws.
    """

    net: nn.Module
    x0: Tensor
    few: int


Contestant = Callable[[Given], Calls]


@dataclass
class Line:
    """One row of one contestant: seconds of each round, the highest memory, 10^12 operations of the network, and what follows."""

    row: str
    of: str
    precision: str
    evaluations: tuple[int, int]
    tflop: float
    seconds: list[float]
    memory_gib: float = 0.0
    note: str = ""
    ms: float = 0.0
    spread: float = 0.0
    to_floor: float | None = None
    plain_to_this: float | None = None
    of_peak: float | None = None


# --- one call and its memory -----------------------------------------------------------------------------------------------


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget_memory(device: torch.device) -> None:
    """From here on the highest memory counts anew, where the system can (Linux)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed goes back to the system
        Path("/proc/self/clear_refs").write_text("5")


def memory(device: torch.device) -> float:
    """The most that was in use, in GiB: of the device, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    with suppress(OSError):
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def timed(call: Callable[[], object], device: torch.device, times: int = 1) -> float:
    synchronize(device)
    started = time.perf_counter()
    for _ in range(times):
        call()
    synchronize(device)
    return (time.perf_counter() - started) / times


def peak(device: torch.device, precision: str) -> float:
    """10^12 operations a second of a matrix product, the best of several."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.ones(side, side, device=device, dtype=PRECISIONS[precision]) for _ in range(2))
    return 2 * side**3 / min(timed(lambda: a @ b, device) for _ in range(5)) / 1e12


# --- cmlab's own rows ------------------------------------------------------------------------------------------------------


def pictures(shape: tuple[int, ...], n: int = 4096) -> Data:
    if len(shape) == 1:
        return load_data("two-moons")
    return PixelData(np.random.default_rng(0).integers(256, size=(n, *shape), dtype=np.uint8), None, flip=True)


def training(net: nn.Module, preset: Preset, loss: Loss, shape: tuple[int, ...], **how: Any) -> Callable[[], object]:
    """One step after the other of `fit`, as `cmlab train` makes them."""
    model = Denoiser(copy.deepcopy(net), loss.precond, shape)
    if loss.needs_uncertainty:
        attach_uncertainty(model)
    teacher = Denoiser(copy.deepcopy(net), EDM, shape).requires_grad_(False).eval() if loss.needs_teacher else None
    config = replace(preset, loss=loss, steps=10**9, **{k: how.pop(k) for k in ("precision", "channels_last")})
    return fit(model, pictures(shape), loss, config, teacher=teacher, **how).__next__


def own_rows(given: Given, preset: Preset, precision: str, compiled: bool) -> Calls:
    """cmlab's rows; images and filters lie as its programs lay them in this precision and on this device, or better."""
    x0, shape, device, net = given.x0, tuple(given.x0.shape[1:]), given.x0.device, copy.deepcopy(given.net)
    images = len(shape) == 3 and orders_by_pixel(net, device)
    dtype, order = PRECISIONS[precision], torch.channels_last if images else torch.contiguous_format
    how = {"precision": precision, "channels_last": images, "device": device, "compile": compiled}
    net.to(memory_format=order)  # pyright: ignore[reportCallIssue]
    x0 = x0.contiguous(memory_format=order)
    level = torch.ones(len(x0), device=device)
    asked = copy.deepcopy(net).eval()
    models = [Denoiser(asked, precond, shape) for precond in (EDM, CONSISTENCY)]
    for m in models:
        compute_in(m, cast(Any, precision))
    if compiled:
        compile_blocks(net)
        compile_blocks(asked)

    def autocast() -> Any:
        return nullcontext() if precision == "float32" else torch.autocast(device.type, dtype)

    def forward(x: Tensor) -> Tensor:
        with torch.no_grad(), autocast():
            return asked(x, level[: len(x)])

    def backward() -> None:
        net.zero_grad()
        with autocast():
            out = net(x0, level)
        out.sum().backward()

    rows: dict[str, Callable[[], object]] = {
        FORWARD: lambda: forward(x0),
        FEW: lambda: forward(x0[: given.few]),
        BACKWARD: backward,
        "one step": lambda: sample(models[1], shape, range(len(x0)), "onestep", 1, device=device),
        "Heun 18": lambda: sample(models[0], shape, range(given.few), "heun", 18, device=device),
    }
    losses = LOSSES if preset.loss in LOSSES.values() else LOSSES | {"own step": preset.loss}
    for row, loss in losses.items():
        if not (compiled and loss.differentiates_forwards):
            rows[row] = training(given.net, preset, loss, shape, **how)
    return rows


# --- by turns --------------------------------------------------------------------------------------------------------------


def contestants(given: Given, preset: Preset, compiled: bool, others: Mapping[str, Contestant]) -> dict[tuple[str, str], Calls]:
    """The calls of all by name and precision: ``others`` in float32, cmlab in each that the device computes."""
    parts = {(name, "float32"): make(given._replace(net=copy.deepcopy(given.net))) for name, make in others.items()}
    for precision in ("float32", "bf16") if given.x0.ndim == 4 and has_bf16(given.x0.device) else ("float32",):
        for c in (False, True)[: 1 + compiled]:
            parts[f"cmlab {precision}" + ", compiled" * c, precision] = own_rows(given, preset, precision, c)
    return parts


def measure(
    preset: Preset,
    shape: tuple[int, ...],
    device: torch.device,
    *,
    few: int = 4,
    rounds: int = 7,
    compiled: bool = False,
    times: int = 1,
    others: Mapping[str, Contestant],
) -> list[Line]:
    """All rows of all contestants, by turns, ``times`` calls timed at once; ratios are to the one called "plain"."""
    with global_seed(0):
        net = build_network(preset.network, shape, 0).to(device)
    x0 = pictures(shape).batch(preset.batch, torch.Generator().manual_seed(0))[0].to(device)
    given, each = Given(net, x0, min(few, preset.batch)), forward_flops(preset, shape) / 1e12
    parts, lines = contestants(given, preset, compiled, others), []
    for row, needed in (ROWS | {"own step": (preset.loss.evaluations - 3, 1)}).items():
        tflop = each * (needed[0] + 3 * needed[1]) * (given.few if row in OF_FEW else preset.batch)
        lines += [Line(row, *who, needed, tflop, []) for who, calls in parts.items() if row in calls]
    for turn in range(1 + rounds):
        for line in (line for line in lines if not line.note):
            _once(line, parts[line.of, line.precision][line.row], device, times, first=turn == 0)
        print(f"round {turn} of {rounds}", file=sys.stderr, flush=True)
    return conclude(lines, {p: peak(device, p) for p in {line.precision for line in lines}})


def _once(line: Line, call: Callable[[], object], device: torch.device, times: int, first: bool) -> None:
    """Time a call; the first is not counted, and its memory is looked at."""
    if first:
        forget_memory(device)
    try:
        seconds = timed(call, device, 1 if first else times)
    except torch.OutOfMemoryError:
        line.note = "takes more memory than there is"
        return
    if first:
        line.memory_gib = memory(device)
    else:
        line.seconds.append(seconds)


def conclude(lines: list[Line], peaks: dict[str, float]) -> list[Line]:
    """Medians and ratios of what was timed."""
    known = {(line.row, line.of): line.seconds for line in lines if line.seconds}
    for line in (line for line in lines if line.seconds):
        low, middle, high = quantiles(line.seconds) if len(line.seconds) > 1 else line.seconds * 3
        line.ms, line.spread, line.of_peak = 1000 * middle, (high - low) / 2 / middle, line.tflop / middle / peaks[line.precision]
        pieces = {FEW if line.row in OF_FEW else FORWARD: line.evaluations[0], BACKWARD: line.evaluations[1]}
        times = [[n * t for t in known.get((piece, line.of), ())] for piece, n in pieces.items() if n]
        if line.row not in (FORWARD, FEW, BACKWARD) and all(times):
            line.to_floor = median(t / sum(parts) for t, *parts in zip(line.seconds, *times, strict=True))
        if line.of != "plain" and (line.row, "plain") in known:
            line.plain_to_this = median(p / t for p, t in zip(known[line.row, "plain"], line.seconds, strict=True))
    return lines
