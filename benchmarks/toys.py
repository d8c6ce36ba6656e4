"""The table of benchmarks/README.md: every method trained on the ring of 8 and the two moons with three seeds, and medians.

    python benchmarks/toys.py [--seeds 3] [--data 8gaussians two-moons] [--runs NAME ...] [--fresh 8]

Protocol: standard deviation 0.5, 5,000 steps of 512, one CPU thread, 20,000 points, 256 directions; every seed has its own
reference draw, noise, teacher and floor (data against data). The ladder goes from the paper's CT towards the preset that ships, one
change at a time (its end is the row of uniform pairs, N to 160, from EDM's weights). Results are printed as they come and
written to runs/toys.json, from which a stopped run goes on.

--fresh N judges consistency models on N further references too, the same ones for every seed, and says how much of their distance
lies above the floor. Distances of independent errors add as squares, so that part can be compared between references.
"""

import argparse
import copy
import json
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from cmlab.data import load_data
from cmlab.denoiser import Denoiser
from cmlab.distances import Distance
from cmlab.evaluation import ToyTest, paired_rms, toy_report
from cmlab.formats import checkpoints
from cmlab.losses import ConsistencyLoss, ct, ict
from cmlab.methods.continuous import sct
from cmlab.methods.progressive import ProgressiveLoss
from cmlab.noise import karras_sigmas, sampling_sigmas
from cmlab.samplers import euler, heun, last_state
from cmlab.schedules import FixedMu, GridPairs, ProgressiveN
from cmlab.training import fit
from cmlab.training.presets import Preset, build_model, get_preset

RESULTS = Path("runs/toys.json")


def ladder(data: str) -> dict[str, Preset]:
    """Name -> preset; each rung of the ladder changes one thing of the rung above it."""
    paper = replace(get_preset(f"{data}-ct"), loss=ct())
    rungs = {"CT as in the paper": paper}
    rungs["  target EMA off (mu = 0)"] = replace(paper, loss=replace(ct(), target=FixedMu(0.0)))
    rungs["  weight 1 -> 1/dt"] = replace(paper, loss=replace(ct(), target=FixedMu(0.0), weight="1/dt"))
    pairs = GridPairs(ProgressiveN(2, 150), "uniform")
    rungs["  l2 -> pseudo-Huber"] = replace(paper, loss=ConsistencyLoss(pairs, "noise", Distance("huber"), "1/dt"))
    rungs["  N(k) doubling 10..160"] = replace(paper, loss=ict(10, 160, "uniform"))
    rungs["  lr 1e-3 -> 4e-3"] = replace(rungs["  N(k) doubling 10..160"], lr=4e-3)
    ict_preset = replace(get_preset("8gaussians-ict"), data=data, init=f"{data}-edm")
    return {
        "EDM": get_preset(f"{data}-edm"),
        "PD": get_preset(f"{data}-pd"),
        "CD (N = 80, Heun, 1/dt)": get_preset(f"{data}-cd"),
        "CD, continuous": get_preset(f"{data}-ccd"),
        "sCD": get_preset(f"{data}-scd"),
        "iCT, uniform pairs, N to 160, from EDM": ict_preset,
        "iCT, uniform pairs, N to 1280, from EDM": replace(ict_preset, loss=ict(10, 1280, "uniform", 0.01), lr=1e-3),
        "iCT, lognormal pairs, from EDM": replace(ict_preset, loss=ict(10, 160)),
        "ECT, from EDM": get_preset(f"{data}-ect"),
        "CT, continuous, from EDM": get_preset(f"{data}-cct"),
        "sCT": get_preset(f"{data}-sct"),
        "sCT, adaptive weight": replace(get_preset(f"{data}-sct"), loss=sct()),
        **rungs,
    }


def run(name: str, preset: Preset, seed: int, teacher: Denoiser | None) -> tuple[Denoiser, dict[str, float]]:
    """Train with ``seed``; students start from and distil the teacher of the same seed."""
    wants_init = bool(preset.init)
    model = build_model(replace(preset, init="", seed=seed))
    if wants_init and teacher is not None:
        model.net.load_state_dict(teacher.net.state_dict())
    progressive = isinstance(preset.loss, ProgressiveLoss)
    started, two_steps = time.perf_counter(), None
    for state in fit(
        model, load_data(preset.data), preset.loss, steps=preset.steps, batch=preset.batch, lr=preset.lr, ema=preset.ema,
        lr_schedule=preset.lr_schedule, teacher=teacher if preset.loss.needs_teacher else None, seed=seed,
        every=1 if progressive else preset.steps,
    ):  # fmt: skip
        if isinstance(preset.loss, ProgressiveLoss) and state.step < preset.steps and preset.loss.n(state.progress) == 1:
            two_steps = two_steps or copy.deepcopy(state.ema)  # the last of the stage with two steps
    seconds = time.perf_counter() - started
    assert isinstance(state.ema, Denoiser)
    if progressive:
        assert isinstance(two_steps, Denoiser) and teacher is not None
        return state.ema, {**progressive_report(state.ema, two_steps, preset.data, teacher, seed), "seconds": seconds}
    report = toy_report(state.ema, preset.data, teacher if preset.consistency else None, seed)
    return state.ema, {**report, "seconds": seconds}


def fresh(model: Denoiser, tests: list[ToyTest]) -> dict[str, float]:
    """Root mean square of the distances in one step and in two over ``tests``, and of their floors."""
    found = [{"floor": t.floor, **{way: t.distance(x) for way, x in t.few_steps(model).items()}} for t in tests]
    squares = {f"fresh {key}": statistics.fmean(one[key] ** 2 for one in found) for key in found[0]}
    return {"fresh": len(tests), **{key: square**0.5 for key, square in squares.items()}}


def progressive_report(one: Denoiser, two: Denoiser, data: str, teacher: Denoiser, seed: int) -> dict[str, float]:
    """As toy_report, for the students of progressive distillation with one and with two steps."""
    test = ToyTest(data, seed)
    first, second = (last_state(euler(model, test.noise, karras_sigmas(k + 1))) for k, model in ((1, one), (2, two)))
    report = {"floor": test.floor, "1 step": test.distance(first), "2 steps": test.distance(second)}
    reached = last_state(heun(teacher, test.noise, sampling_sigmas(40)))
    return report | {"paired rms to the teacher": paired_rms(first, reached)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", nargs="+", default=["8gaussians", "two-moons"])
    parser.add_argument("--runs", nargs="+", help="only methods whose names start so (EDM is always trained)")
    parser.add_argument("--fresh", type=int, default=0, help="number of further references to judge consistency models on")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for data in arguments.data:
        tests = [ToyTest(data, 10 + k) for k in range(arguments.fresh)]
        for seed in range(arguments.seeds):
            path = Path(f"runs/toys-{data}-edm-{seed}.safetensors")
            for name, preset in ladder(data).items():
                key = f"{data}|{name}|{seed}"
                chosen = not arguments.runs or any(name.strip().startswith(r) for r in arguments.runs) or name == "EDM"
                judge = bool(tests) and preset.consistency and not isinstance(preset.loss, ProgressiveLoss)
                kept = results.get(key, {})
                if not chosen or (kept.get("preset") == repr(preset) and (not judge or kept.get("fresh") == len(tests))):
                    continue
                teacher = None if name == "EDM" else checkpoints.load(path)[0].requires_grad_(False)
                model, report = run(name, preset, seed, teacher)
                if judge:
                    report |= fresh(model, tests)
                results[key] = {"preset": repr(preset), **report}
                if name == "EDM":
                    checkpoints.save(path, model)
                print(key, {k: round(v, 4) for k, v in report.items()}, flush=True)
                RESULTS.write_text(json.dumps(results, indent=1))
    table(results, arguments.data)


def table(results: dict[str, dict[str, float]], datasets: list[str]) -> None:
    columns = ["40 Heun steps", "1 step", "2 steps", "paired rms to the teacher", "seconds"]
    for data in datasets:
        rows = {name: [v for k, v in results.items() if k.startswith(f"{data}|{name}|")] for name in ladder(data)}
        floors = [v["floor"] for v in rows["EDM"]]
        print(f"\n{data}: floor {statistics.median(floors):.4f} (data against data), median of {len(floors)} seeds")
        print("| method | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
        for name, reports in rows.items():
            if reports:
                cells = [statistics.median(r[c] for r in reports) if c in reports[0] else None for c in columns]
                shown = [
                    "" if c is None else f"{c:.0f}" if n == "seconds" else f"{c:.4f}" for c, n in zip(cells, columns, strict=True)
                ]
                print(f"| {name} | " + " | ".join(shown) + " |")
        judged = {name: kept for name, reports in rows.items() if (kept := [r for r in reports if "fresh" in r])}
        if judged:
            print("\non fresh references: mean and standard error of the trainings, and what lies above the floor")
            print("| method | floor | 1 step | above | 2 steps | above |\n|" + "---|" * 6)
        for name, reports in judged.items():
            cells = [mean_and_error([report["fresh floor"] for report in reports])]
            for way in ("fresh 1 step", "fresh 2 steps"):
                above = [max(report[way] ** 2 - report["fresh floor"] ** 2, 0) ** 0.5 for report in reports]
                cells += [mean_and_error([report[way] for report in reports]), mean_and_error(above)]
            print(f"| {name} | " + " | ".join(cells) + " |")


def mean_and_error(values: list[float]) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else math.nan
    return f"{statistics.fmean(values):.4f} ± {error:.4f}"


if __name__ == "__main__":
    main()
