"""How fast presets train on this device, how near that is to its peak, and what the whole preset would take.

    python benchmarks/throughput.py cifar10-edm-ddpmpp cifar10-cd cifar10-ect --precision bf16 --compile   # a GPU
    python benchmarks/throughput.py cifar10-edm-ddpmpp --batch 4 --steps 2                                 # a CPU

Each preset trains a few steps from random weights (a distilling one from a random teacher) through the code that `cmlab train`
runs, on its data where they are found, else on noise. Operations are those of the network alone (`cmlab.cost`); the peak is what
one large matrix product reaches here in the same precision. A batch that does not fit is divided (--accumulate) until it does.
Where the weights of the perceptual distance are absent, pseudo-Huber takes its place, and the table says so.
"""

import argparse
import json
import resource
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from cmlab.base.device import choose_device
from cmlab.base.rng import global_seed
from cmlab.data import ImageData
from cmlab.data.pictures import PixelData
from cmlab.denoiser import Denoiser
from cmlab.distances import Distance
from cmlab.losses import ConsistencyLoss
from cmlab.methods.continuous import attach_uncertainty
from cmlab.networks import build_network
from cmlab.training import presets
from cmlab.training.cost import forward_flops, sample_shape
from cmlab.training.presets import Preset
from cmlab.training.trainer import PRECISIONS, usable_precision


@dataclass(frozen=True)
class Rate:
    """What was measured of one preset: times are of a step of ``batch`` samples, memory is the highest in use."""

    preset: str
    device: str
    precision: str
    compiled: bool
    batch: int
    accumulate: int
    parameters: int
    first_step_s: float
    step_s: float
    images_per_s: float
    tflops: float
    peak_tflops: float
    memory_gib: float
    hours_in_all: float
    remarks: tuple[str, ...]

    @property
    def share(self) -> float:
        return self.tflops / self.peak_tflops


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory(device: torch.device) -> float:
    """The most that was in use so far, in GiB: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def peak(device: torch.device, dtype: torch.dtype) -> float:
    """10^12 operations a second of a matrix product, the best of several."""
    side = 8192 if device.type == "cuda" else 2048
    a, b = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        synchronize(device)
        started = time.perf_counter()
        a @ b
        synchronize(device)
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best / 1e12


def pictures(preset: Preset) -> tuple[PixelData | ImageData, str]:
    """The preset's data and "", or noise of that shape and a remark that says so."""
    try:
        data = presets.training_data(preset)
    except FileNotFoundError:
        shape = sample_shape(preset)
        assert shape is not None
        label = torch.arange(4096) % 10 if preset.labels else None
        pixels = np.random.default_rng(0).integers(256, size=(4096, *shape), dtype=np.uint8)
        return PixelData(pixels, label, tuple("0123456789") if preset.labels else (), preset.flip), "noise for data"
    assert isinstance(data, PixelData | ImageData)
    return data, ""


def new_model(preset: Preset, data: PixelData | ImageData) -> Denoiser:
    with global_seed(0):
        net = build_network(preset.network, data.shape, data.classes)
    model = Denoiser(net, preset.loss.precond, data.shape, data.classes)
    if preset.loss.needs_uncertainty:
        attach_uncertainty(model)
    return model


def offline(preset: Preset) -> tuple[Preset, str]:
    """``preset`` without a perceptual distance whose weights cannot be had, and a remark."""
    loss = preset.loss
    if isinstance(loss, ConsistencyLoss) and loss.distance.name == "lpips":
        try:
            loss.distance(torch.zeros(1, 3, 64, 64), torch.zeros(1, 3, 64, 64))
        except (OSError, ImportError, ValueError):
            return replace(preset, loss=replace(loss, distance=Distance("huber"))), "without LPIPS"
    return preset, ""


def measure(name: str, preset: Preset, steps: int, compiled: bool, device: torch.device) -> Rate:
    """Train ``steps`` steps of ``preset`` after a first one, which pays for the start and the compiler."""
    data, noise = pictures(preset)
    preset, distance = offline(replace(preset, precision=usable_precision(preset.precision, device)))
    model, teacher = new_model(preset, data), None
    if preset.loss.needs_teacher:
        known = presets.get_preset(preset.teacher)
        teacher = new_model(replace(preset, network=known.network, loss=known.loss), data).requires_grad_(False).eval().to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    short, times = replace(preset, steps=1 + steps, init="", teacher=""), [time.perf_counter()]
    run = presets.run(short, lambda step: step in (1, 1 + steps), device, model=model, teacher=teacher, data=data, compile=compiled)
    skipped = 0
    for state in run:
        synchronize(device)
        times.append(time.perf_counter())
        skipped = state.skipped
    assert skipped == 0, "a step whose loss is not finite"
    first, each = times[1] - times[0], (times[2] - times[1]) / steps
    rate, operations = preset.batch / each, forward_flops(preset, model.shape) * preset.loss.evaluations
    what = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    full = presets.get_preset(name)
    return Rate(
        preset=name,
        device=what,
        precision=preset.precision,
        compiled=compiled,
        batch=preset.batch,
        accumulate=preset.accumulate,
        parameters=sum(p.numel() for p in model.parameters()),
        first_step_s=first,
        step_s=each,
        images_per_s=rate,
        tflops=rate * operations / 1e12,
        memory_gib=memory(device),
        peak_tflops=peak(device, PRECISIONS[preset.precision]),
        hours_in_all=full.steps * full.batch / rate / 3600,
        remarks=tuple(remark for remark in (noise, distance) if remark),
    )


def fitting(name: str, preset: Preset, steps: int, compiled: bool, device: torch.device) -> Rate:
    """As `measure`, with the batch divided until it fits into the device's memory."""
    while True:
        try:
            return measure(name, preset, steps, compiled, device)
        except torch.OutOfMemoryError:
            if preset.batch % (2 * preset.accumulate):
                raise
            torch.cuda.empty_cache()
            preset = replace(preset, accumulate=2 * preset.accumulate)
            print(f"{name}: {preset.batch} samples at once do not fit, {preset.accumulate} parts", flush=True)


COLUMNS = (
    "preset", "precision", "compiled", "batch", "M weights", "first step, s", "ms per step", "images/s", "TFLOP/s", "of peak",
    "GiB", "preset in all, h",
)  # fmt: skip


def row(r: Rate) -> str:
    cells = (
        r.preset + (f" ({', '.join(r.remarks)})" if r.remarks else ""),
        r.precision,
        "yes" if r.compiled else "no",
        f"{r.batch}" + (f" in {r.accumulate}" if r.accumulate > 1 else ""),
        f"{r.parameters / 1e6:.1f}",
        f"{r.first_step_s:.1f}",
        f"{1000 * r.step_s:.0f}",
        f"{r.images_per_s:.3g}",
        f"{r.tflops:.3g}",
        f"{r.share:.0%}",
        f"{r.memory_gib:.1f}",
        f"{r.hours_in_all:,.1f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="+", metavar="PRESET")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["preset", "float32", "bf16", "fp16"], default="preset")
    parser.add_argument("--compile", action="store_true", help="a second row with compiled networks")
    parser.add_argument("--batch", type=int, help="instead of the preset's")
    parser.add_argument("--steps", type=int, default=20, help="that are timed")
    parser.add_argument("--out", type=Path, help="JSON file to which the rows are added")
    o = parser.parse_args()
    device = choose_device(o.device)
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|", flush=True)
    for name in o.presets:
        preset = presets.get_preset(name)
        preset = replace(preset, precision=preset.precision if o.precision == "preset" else o.precision)
        preset = preset if o.batch is None else replace(preset, batch=o.batch, accumulate=1)
        for compiled in (False, True) if o.compile else (False,):
            rate = fitting(name, preset, o.steps, compiled, device)
            print(row(rate), flush=True)
            if o.out:
                rows = json.loads(o.out.read_text()) if o.out.exists() else []
                o.out.write_text(json.dumps([*rows, asdict(rate)], indent=1))


if __name__ == "__main__":
    main()
