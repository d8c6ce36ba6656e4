"""How fast is it here? One thread, nothing else running: python benchmarks/speed.py

Sampling: seconds per 1,000 images of each bundled model, and the ratio to its teacher's, side by side in one run.
Training: steps per second of each bundled preset over a short run, and what the whole preset takes at that rate.
"""

import time
from dataclasses import replace

import torch

from cmlab.denoiser import classes_in_turn
from cmlab.formats import checkpoints
from cmlab.samplers import plan, sample
from cmlab.training import presets


def sampling(n: int = 256) -> None:
    seconds = {}
    for name in checkpoints.pretrained_names():
        model, _ = checkpoints.load(name)
        how = plan(model)
        label = classes_in_turn(model.classes, n)
        best = float("inf")
        for _ in range(4):  # the first run pays for the start
            started = time.perf_counter()
            sample(model, model.shape, range(n), how.sampler, how.steps, label=label)
            best = min(best, time.perf_counter() - started)
        seconds[name] = best / n * 1000
    for name, value in seconds.items():
        teacher = name.rpartition("-")[0] + "-edm"
        ratio = f", {seconds[teacher] / value:.0f}x faster than {teacher}" if teacher in seconds and teacher != name else ""
        print(f"{name}: {value:.3f} s per 1,000 samples{ratio}")


def training(steps: int = 60) -> None:
    for name in checkpoints.pretrained_names():
        preset = presets.get_preset(name)
        run = presets.run(replace(preset, steps=2 * steps), every=steps)
        next(run)  # warm-up
        started = time.perf_counter()
        next(run)
        rate = steps / (time.perf_counter() - started)
        print(f"{name}: {rate:.1f} steps/s, {preset.steps} steps in {preset.steps / rate:.0f} s")


if __name__ == "__main__":
    torch.set_num_threads(1)
    sampling()
    training()
