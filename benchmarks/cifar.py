"""How good a teacher and its students are, in few steps and in many, and how a student came there.

    python benchmarks/cifar.py TEACHER STUDENT ... [--n 10000] [--search 2000] [--out runs/cifar-table]
    python benchmarks/cifar.py TEACHER --curve FILE ... [--n 2000] [--out runs/cifar-curve]

The first measures the 18- and 5-step Heun teacher and each student in one step and in two, whose second noise level is searched
where the checkpoint's header does not know it. The second measures the ratio of a student's one-step FD-cls to its 18-step
teacher's over training: FILE is a checkpoint, or a state-STEP.safetensors of 'cmlab train --save-every N --keep K' in the folder of
its preset, of which the averaged weights are taken. Both write OUT.json and a table OUT.md. No checkpoint is changed.
"""

import argparse
import copy
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from cmlab.base.device import choose_device, machine
from cmlab.base.files import write_whole
from cmlab.denoiser import Denoiser, classes_in_turn
from cmlab.formats import checkpoints
from cmlab.samplers import Plan, sample
from cmlab.training.chain import measure, searched_levels, ways
from cmlab.training.presets import data_of, find, get_preset
from cmlab.training.states import read_state

FIGURES = ("FD-cls", "KD-cls", "class accuracy")
TIMED = 1000  # samples that a time is taken of


def seconds_per_1000(model: Denoiser, how: Plan, n: int, device: torch.device) -> float:
    """Time of ``n`` samples in batches of 256, without features, after a first batch."""
    spent = 0.0
    for start in (0, *range(0, n, 256)):  # the first twice
        seeds = range(start, min(start + 256, n))
        label = classes_in_turn(model.classes, len(seeds), device=device)
        began, spent = time.perf_counter(), spent if start else 0.0
        sample(model, model.shape, seeds, how.sampler, label=label, sigmas=how.sigmas, device=device).cpu()
        spent += time.perf_counter() - began
    return 1000 * spent / n


def ratio(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, float]:
    """Of two figures {"value", "error"}, and its error when they are independent."""
    r = a["value"] / b["value"]
    return r, abs(r) * math.hypot(a["error"] / a["value"], b["error"] / b["value"])


def table(teacher: str, students: list[str], n: int, search: int, device: torch.device) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name in (teacher, *students):
        path = find(name)
        model, meta = checkpoints.load(path, device)
        about, data = dict(meta.get("about") or {}), data_of(meta, None)[1]
        if model.precond.consistency == (name == teacher):
            raise SystemExit(f"{name}: the teacher comes first and is a diffusion model, students are consistency models")
        two = (about.get("two_steps") or searched_levels(model, data, search)) if model.precond.consistency else None
        for how in ways(model, two):
            found = measure(model, path.stem, data, how, n, device)
            sigmas = how.sigmas.tolist() if how.chosen else None
            figures = {row.name: {"value": row.value, "error": row.error, "floor": row.floor} for row in found.rows}
            row: dict[str, Any] = {
                "model": path.stem,
                "sampler": how.sampler,
                "steps": how.steps,
                "sigmas": sigmas,
                "n": n,
                **figures,
            }
            row["seconds per 1000"] = seconds_per_1000(model, how, min(n, TIMED), device)
            row["ratio"] = ratio(row["FD-cls"], rows[0]["FD-cls"]) if rows else (1.0, 0.0)
            row["images"], row["hours"] = about.get("images"), about.get("seconds", 0) / 3600
            row |= {"trained on": about.get("machine"), "measured on": machine(device), "data": about.get("data_title", data)}
            rows.append(row)
            print(markdown(rows).splitlines()[-1], flush=True)
    return rows


def plus(value: float, error: float, digits: int) -> str:
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def markdown(rows: list[dict[str, Any]]) -> str:
    head = ["model", "steps", *FIGURES, "FD / teacher's", "s per 1,000", "images seen", "hours", "trained on"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for row in rows:
        levels = f" ({' '.join(f'{s:.3g}' for s in row['sigmas'])})" if row["sigmas"] else ""
        figures = [plus(row[k]["value"], row[k]["error"], 4 if k == "KD-cls" else 3) if k in row else "-" for k in FIGURES]
        images = f"{row['images']:,}" if row["images"] else "not recorded"
        cells = [row["model"], f"{row['steps']} {row['sampler']}{levels}", *figures, plus(row["ratio"][0], row["ratio"][1], 2)]
        cells += [f"{row['seconds per 1000']:.1f}", images, f"{row['hours']:.2f}", row["trained on"] or "not recorded"]
        lines.append(f"| {' | '.join(cells)} |")
    floor = "; ".join(f"{k} {rows[0][k]['floor']:.4g}" for k in FIGURES if k in rows[0])
    told = f"{rows[0]['n']} samples of {rows[0]['data']} each, bootstrap error; real held-out images: {floor}."
    return "\n".join([told, f"Sampled on {rows[0]['measured on']}, {torch.get_num_threads()} CPU threads.", "", *lines])


# --- over training ---------------------------------------------------------------------------------------------------------


def model_at(path: Path, teacher: Denoiser) -> tuple[Denoiser, int | None]:
    """The averaged weights in a checkpoint or in a saved state, and the state's step."""
    if not path.name.startswith("state-"):
        return checkpoints.load(path)[0], None
    state = read_state(path)
    net = copy.deepcopy(teacher.net)
    net.load_state_dict({k.removeprefix("ema0.net."): v for k, v in state.tensors.items() if k.startswith("ema0.net.")})
    precond = get_preset(path.parent.name).loss.precond
    return Denoiser(net, precond, teacher.shape, teacher.classes, teacher.drops_labels).eval(), int(state.facts["step"])


def curve(teacher: str, files: list[Path], n: int, device: torch.device) -> list[dict[str, Any]]:
    model, meta = checkpoints.load(find(teacher), device)
    data = data_of(meta, None)[1]
    base = measure(model, teacher, data, ways(model)[0], n, device).rows[0]
    rows = []
    for path in files:
        student, step = model_at(path, model)
        found = measure(student.to(device), path.stem, data, ways(student)[0], n, device).rows[0]
        r, error = ratio({"value": found.value, "error": found.error}, {"value": base.value, "error": base.error})
        rows.append({"file": str(path), "step": step, "n": n, "FD-cls": found.value, "error": found.error, "ratio": [r, error]})
        print(f"{path}: FD-cls {plus(found.value, found.error, 3)}, ratio {plus(r, error, 2)}", flush=True)
    return rows


def curve_markdown(rows: list[dict[str, Any]]) -> str:
    lines = ["| file | step | FD-cls | ratio to the teacher's 18 steps |", "|---|---|---|---|"]
    for row in rows:
        step = "last" if row["step"] is None else f"{row['step']:,}"
        name = Path(row["file"]).name
        lines.append(f"| {name} | {step} | {plus(row['FD-cls'], row['error'], 3)} | {plus(*row['ratio'], 2)} |")
    return "\n".join([f"{rows[0]['n']} samples each.", "", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher")
    parser.add_argument("students", nargs="*")
    parser.add_argument("--curve", nargs="+", type=Path, default=[])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--search", type=int, default=2000)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/cifar-table"))
    o = parser.parse_args()
    if bool(o.students) == bool(o.curve):
        parser.error("name students to measure, or files behind --curve")
    torch.set_num_threads(o.threads)
    device = choose_device(o.device)
    rows = curve(o.teacher, o.curve, o.n, device) if o.curve else table(o.teacher, o.students, o.n, o.search, device)
    text = curve_markdown(rows) if o.curve else markdown(rows)
    o.out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(o.out.with_suffix(".json"), json.dumps(rows, indent=1).encode())
    write_whole(o.out.with_suffix(".md"), f"{text}\n".encode())
    print(text)


if __name__ == "__main__":
    main()
