"""How many noise levels should consistency training compare? Fixed N, few and many, against growing N(k), on points.

    python benchmarks/levels.py [--seeds 3] [--steps 500 2000] [--data 8gaussians two-moons] [--runs "from nothing"]

Every training has the same network, draws, distance (pseudo-Huber), weight (1/dt) and number of steps of 256; only N differs, and
where it says so the start (random, or a diffusion model's weights) and the target (the model itself, or the paper's average mu(k)).
Printed is, over the seeds, the rms distance of one call from the exact consistency function, and the sliced Wasserstein distance
to the data. One thread. Results are written to runs/levels.json as they come, from which a stopped run goes on.
"""

import argparse
import itertools
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from cmlab.data import load_data
from cmlab.distances import Distance
from cmlab.evaluation import ToyTest, paired_rms
from cmlab.losses import ConsistencyLoss
from cmlab.schedules import AdaptiveMu, DoublingN, FixedMu, FixedN, GridPairs
from cmlab.training import fit
from cmlab.training.presets import build_model, get_preset

RESULTS = Path("runs/levels.json")
LEVELS = {
    "11": FixedN(11), "161": FixedN(161), "1281": FixedN(1281), "11 to 161": DoublingN(10, 160), "11 to 1281": DoublingN(10, 1280),
}  # fmt: skip
RUNS = {"from nothing": ("", FixedMu(0.0)), "from EDM": ("edm", FixedMu(0.0)), "from nothing, mu(k)": ("", AdaptiveMu(2, 0.9))}
TOP = torch.tensor(80.0)


@cache
def test_of(data: str, seed: int) -> tuple[ToyTest, torch.Tensor]:
    """Noise and reference of a seed, and where the exact consistency function sends the noise."""
    test = ToyTest(data, seed, n=4000)
    return test, test.oracle.consistency(test.noise, TOP)


def train(data: str, start: str, levels: str, steps: int, seed: int) -> tuple[float, float]:
    """The distance from the exact f, and that to the data, after one training."""
    weights, target = RUNS[start]
    preset = replace(get_preset("8gaussians-ict"), data=data, init=weights and f"{data}-{weights}", seed=seed)
    loss = ConsistencyLoss(GridPairs(LEVELS[levels], "uniform"), "noise", Distance("huber"), "1/dt", target)
    model = build_model(replace(preset, loss=loss))
    *_, state = fit(model, load_data(data), loss, steps=steps, batch=256, lr=2e-3, ema=0.98, seed=seed, every=steps)
    test, exact = test_of(data, seed)
    made = state.ema(test.noise, TOP).detach()
    return paired_rms(made, exact), test.distance(made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, nargs="+", default=[500, 2000])
    parser.add_argument("--data", nargs="+", default=["8gaussians", "two-moons"])
    parser.add_argument("--runs", nargs="+", default=[*RUNS], choices=[*RUNS])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    RESULTS.parent.mkdir(exist_ok=True)
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for steps, start, data in itertools.product(arguments.steps, arguments.runs, arguments.data):
        print(f"\n{data}, {start}, {steps} steps\n| N | rms from the exact f | distance to the data |\n|---|---|---|")
        for levels in LEVELS:
            rows = []
            for seed in range(arguments.seeds):
                key = f"{data}|{start}|{levels}|{steps}|{seed}"
                found[key] = found.get(key) or train(data, start, levels, steps, seed)
                RESULTS.write_text(json.dumps(found, indent=1))
                rows.append(found[key])
            print(
                f"| {levels} | " + " | ".join(f"{min(v):.3f} to {max(v):.3f}" for v in zip(*rows, strict=True)) + " |", flush=True
            )


if __name__ == "__main__":
    main()
