"""How fast is cmlab here? Networks, training steps and samplers, by turns in one process, beside the network evaluations they need.

    python benchmarks/run.py                             # the table of this machine: an ADM U-Net of 7.66 M weights, and 2D
    python benchmarks/run.py --tiny                      # the same of toy networks, in seconds
    python benchmarks/run.py --against my_module:my_steps    # with somebody else's steps beside them
    python benchmarks/run.py --preset cifar10-cd --device cuda --batch 512 --compile    # a preset's network, and all of its run
    python benchmarks/run.py --scaling                   # batch 1 to 512, image side 8 to 64, 1 and 2 processes
    python benchmarks/run.py --bundled                   # seconds for 1,000 samples of the models that ship

A row's floor is the time of the evaluations that it cannot do without, of the same network in the same precision, measured in the
same rounds: a denoising step one forward and backward pass, CT one more forward pass, CD three more (two of the teacher's), Heun in
18 steps 35. Times are medians of ``--rounds`` rounds after a first one, +- half of the middle half of them; ratios are medians of
each round's ratio, so that a machine that is busy for a while moves them little. Memory is the most that was in use meanwhile: of
the device, or of this process. Operations are those of the network alone (`cmlab.training.cost`), the peak is what one large matrix
product reaches here in the same precision. Pictures are noise.

``--against MODULE:FUNCTION`` takes ``FUNCTION(given) -> {row: call}``: ``given`` is a `turns.Given`, each row is one of
`turns.ROWS` (some may be missing), and ``call()`` does it once. `plain.steps`, which is always measured too, is an example.
"""

import argparse
import importlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

import plain
import torch
from turns import FORWARD, LOSSES, Contestant, Given, Line, measure, own_rows, pictures, timed, training

from cmlab.base.device import choose_device, machine
from cmlab.base.rng import global_seed
from cmlab.denoiser import classes_in_turn
from cmlab.distances import Distance
from cmlab.formats import checkpoints
from cmlab.losses import ConsistencyLoss, EDMLoss
from cmlab.networks import MLPConfig, UNetConfig, build_network
from cmlab.networks.layers import orders_by_pixel
from cmlab.samplers import plan, sample
from cmlab.training import presets
from cmlab.training.cost import sample_shape
from cmlab.training.presets import Preset
from cmlab.training.processes import from_environment, joined, leave

Shape = tuple[int, ...]


def subject(o: argparse.Namespace) -> tuple[Preset, Shape, str]:
    """The preset whose network is measured, the shape of a sample, and its name with a remark."""
    if not o.preset:
        published: Any = {"attention": (16,), "head_channels": 64, "group": 1, "max_groups": 32, "time_scale": 1000.0}
        small: Any = {"attention": (4,), "head_channels": 8, "group": 1, "max_groups": 4}
        network = UNetConfig(8, (1,), blocks=1, **small) if o.tiny else UNetConfig(64, (1, 2, 2), blocks=2, **published)
        preset = Preset("cifar10", EDMLoss(), network, optimizer="adam", batch=16)
        return preset, (3, 4, 4) if o.tiny else (3, 32, 32), "ADM U-Net"
    preset, remark = presets.get_preset(o.preset), ""
    shape = sample_shape(preset)
    if shape is None:
        raise ValueError(f"the shape of {o.preset}'s data is known only from its files: choose another preset")
    if isinstance(preset.loss, ConsistencyLoss) and preset.loss.distance.name == "lpips":
        preset, remark = replace(preset, loss=replace(preset.loss, distance=Distance("huber"))), " (pseudo-Huber for LPIPS)"
    if preset.augment:
        preset, remark = replace(preset, augment=0.0), remark + " (not augmented)"
    if o.tiny:
        shape, network = (shape[0], 8, 8), replace(preset.network, channels=8, blocks=1)  # pyright: ignore[reportCallIssue]
        preset = replace(preset, network=network, batch=4)
    return replace(preset, label_dropout=0.0), shape, o.preset + remark


def contestant(target: str) -> Contestant:
    module, _, name = target.partition(":")
    if not name:
        raise ValueError(f"--against {target}: say MODULE:FUNCTION, such as plain:steps")
    sys.path.insert(0, os.getcwd())
    return getattr(importlib.import_module(module), name)


def of_rows(preset: Preset, shape: Shape, name: str, device: torch.device, o: argparse.Namespace) -> tuple[list[Line], str]:
    """The lines of one network, and their table."""
    others = {"plain": plain.steps} | {target: contestant(target) for target in o.against}
    times = 20 if len(shape) == 1 and not o.tiny else 1
    lines = measure(preset, shape, device, few=o.few, rounds=o.rounds, compiled=o.compile, times=times, others=others)
    weights = sum(p.numel() for p in build_network(preset.network, shape, 0).parameters())

    def share(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    cells = [
        [line.row, line.of, line.note or f"{line.ms:.4g}", f"{line.spread:.0%}", share(line.to_floor, ".2f"),
         share(line.plain_to_this, ".2f"), f"{line.memory_gib:.2f}", share(line.of_peak, ".0%")]
        for line in lines
    ]  # fmt: skip
    text = f"{name}: {weights:,} weights, batch {preset.batch}, few: {min(o.few, preset.batch)}\n\n"
    text += table("what | of | ms | ± | to its floor | plain / this | GiB | of peak", cells)
    step = next((row for row, loss in LOSSES.items() if loss == preset.loss), "own step")
    best = min((line.ms for line in lines if line.row == step and line.of != "plain" and line.seconds), default=math.nan)
    if o.preset:
        seen = preset.steps * presets.get_preset(o.preset).batch
        text += f"\n\nAll {seen:,} samples of its run: {seen / preset.batch * best / 3.6e6:,.1f} hours"
    return lines, text


def table(head: str, rows: list[list[str]]) -> str:
    return "\n".join([f"| {head} |", "|---" * (head.count("|") + 1) + "|", *(f"| {' | '.join(row)} |" for row in rows)])


# --- scaling, and the models that ship -------------------------------------------------------------------------------------


Point = tuple[str, int, float, float, float]


def scaling(preset: Preset, shape: Shape, device: torch.device, o: argparse.Namespace) -> Iterator[Point]:
    """What changes, its value, seconds of a forward pass and of an EDM step (medians), and samples a second of the step."""
    points = [("batch", n, shape) for n in ((1, 2) if o.tiny else (1, 4, 16, 64, 256, 512))]
    points += [("side", n, (shape[0], n, n)) for n in ((4, 8) if o.tiny else (8, 16, 32, 64)) if len(shape) == 3]
    for what, value, here in points:
        now = replace(preset, batch=value if what == "batch" else preset.batch, loss=EDMLoss())
        with global_seed(0):
            net = build_network(now.network, here, 0).to(device)
        x0 = pictures(here).batch(now.batch, torch.Generator().manual_seed(0))[0].to(device)
        rows = own_rows(Given(net, x0, now.batch), now, o.precision, o.compile)
        ahead, step = ([timed(rows[row], device) for _ in range(1 + o.rounds)][1:] for row in (FORWARD, "EDM step"))
        yield what, value, median(ahead), median(step), now.batch / median(step)
    cpu, threads = device.type == "cpu", torch.get_num_threads()
    for n in (1, 2):
        if not cpu and torch.cuda.device_count() < n:
            print(f"{n} processes take a GPU each, and here is {torch.cuda.device_count()}", file=sys.stderr)
            continue
        each = str(max(1, threads // n) if cpu else threads)
        run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}", __file__]
        done = subprocess.run([*run, *o.words, "--worker", "--threads", each], check=True, stdout=subprocess.PIPE)
        seconds = float(done.stdout.split()[-1])
        yield "processes", n, math.nan, seconds, preset.batch / seconds


def worker(preset: Preset, shape: Shape, device: torch.device, o: argparse.Namespace) -> None:
    """One of the processes that share a batch: the first prints the median of a step's seconds."""
    processes = from_environment()
    with joined(processes, device):
        with global_seed(0):
            net = build_network(preset.network, shape, 0).to(device)
        how: Any = {"channels_last": len(shape) == 3 and orders_by_pixel(net, device), "compile": o.compile}
        step = training(net, preset, EDMLoss(), shape, precision=o.precision, device=device, processes=processes, **how)
        seconds = median([timed(step, device) for _ in range(1 + o.rounds)][1:])
    if processes.is_main_process:
        print(seconds, flush=True)
    leave(0)


def bundled(device: torch.device, o: argparse.Namespace) -> Iterator[tuple[str, float, float]]:
    """Each model that ships, seconds for 1,000 samples as it is sampled by default, and how many times faster than its teacher."""
    n, calls = 2 if o.tiny else 256, {}
    for name in checkpoints.pretrained_names():
        model, meta = checkpoints.load(name, device)
        how, label = plan(model, about=meta.get("about")), classes_in_turn(model.classes, n, device=device)
        options: Any = {"sigmas": how.sigmas, "label": label, "device": device}
        calls[name] = lambda m=model, by=how.sampler, o=options: sample(m, m.shape, range(n), by, **o)
    rounds = [{name: timed(call, device) for name, call in calls.items()} for _ in range(1 + o.rounds)][1:]
    for name in calls:
        teacher = name.rpartition("-")[0] + "-edm"
        beside = median(r[teacher] / r[name] for r in rounds) if teacher in calls else math.nan
        yield name, median(r[name] for r in rounds) / n * 1000, beside


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", help="the network of this one, its loss and its batch")
    parser.add_argument("--tiny", action="store_true", help="toy networks")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="of the CPU; by default torch's")
    parser.add_argument("--batch", type=int, help="samples of a training step; by default 16, or the preset's")
    parser.add_argument("--few", type=int, default=4, help="samples that Heun's 18 steps draw")
    parser.add_argument("--accumulate", type=int, default=1, help="parts that a batch is divided in")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="rows of compiled networks too")
    parser.add_argument("--against", action="append", default=[], metavar="MODULE:FUNCTION")
    parser.add_argument("--scaling", action="store_true")
    parser.add_argument("--bundled", action="store_true")
    parser.add_argument("--precision", choices=["float32", "bf16", "fp16"], default="float32", help="of --scaling")
    parser.add_argument("--out", type=Path, help="write PATH.json and PATH.md")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    o = parser.parse_args(words)
    o.words = sys.argv[1:] if words is None else words
    if min(o.rounds, o.few, o.accumulate, o.batch or 1, o.threads or 1) < 1:
        parser.error("--rounds, --few, --accumulate, --batch and --threads are at least 1")
    if o.threads:
        torch.set_num_threads(o.threads)
    device = choose_device(o.device)
    preset, shape, name = subject(o)
    preset = replace(preset, batch=o.batch or preset.batch, accumulate=o.accumulate)
    if o.worker:
        return worker(preset, shape, device, o)
    threads = torch.get_num_threads()
    where = f"{machine(device)}, {f'threads: {threads}, ' if device.type == 'cpu' else ''}torch {torch.__version__}"
    found: dict[str, Any] = {"machine": where, "options": o.words}
    texts = [f"# Speed on {where}"]
    if o.scaling:
        found["scaling"] = points = list(scaling(preset, shape, device, o))
        cells = [[f"{w} {n}", f"{1000 * a:.4g}", f"{1000 * s:.4g}", f"{rate:.4g}"] for w, n, a, s, rate in points]
        texts += [f"{name}, {o.precision}, batch {preset.batch} where nothing else is said"]
        texts += [table("what | forward, ms | EDM step, ms | samples/s of a step", cells)]
    elif o.bundled:
        found["bundled"] = models = list(bundled(device, o))
        cells = [[n, f"{s:.3f}", f"{r:.3g}"] for n, s, r in models]
        texts += [table("model | s per 1,000 samples | times as fast as its teacher", cells)]
    else:
        lines, text = of_rows(preset, shape, name, device, o)
        found[name] = [asdict(line) for line in lines]
        texts.append(text)
        if not o.preset:
            torch.set_num_threads(1)
            points = Preset("two-moons", EDMLoss(), MLPConfig(8, 1, 2) if o.tiny else MLPConfig(), batch=64 if o.tiny else 512)
            lines, text = of_rows(points, (2,), "MLP of points in 2D, on one thread", device, o)
            found["2D"] = [asdict(line) for line in lines]
            texts.append(text)
            torch.set_num_threads(threads)
    text = "\n\n".join(texts)
    print(text)
    if o.out:
        o.out.parent.mkdir(parents=True, exist_ok=True)
        o.out.with_suffix(".json").write_text(json.dumps(found, indent=1))
        o.out.with_suffix(".md").write_text(text + "\n")


if __name__ == "__main__":
    main()
