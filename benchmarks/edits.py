"""How well does a consistency model edit what it was never trained to edit? Figures against simple baselines, and pictures.

    python benchmarks/edits.py digits-color-cd              200 test images, every task; runs/edits-digits-color-cd.json and .md
    python benchmarks/edits.py runs/my-cd.safetensors --n 20

Inpainting, colorization, super-resolution and denoising of test images with the class known: PSNR, the distance to the truth in
the features of the shipped classifier (per image, and as FD-cls), baselines that know nothing of the data, and how exactly the
result agrees with what was kept. Strokes and interpolations for the eye; the length of an interpolation in feature space.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cmlab.data import DATASETS, luma
from cmlab.denoiser import Denoiser, classes_in_turn
from cmlab.editing import (
    EDIT_STEPS,
    Edit,
    apply_edit,
    colorize,
    denoise,
    inpaint,
    luma_operator,
    preset_mask,
    slerp,
    stroke,
    super_resolve,
)
from cmlab.evaluation import is_consistency
from cmlab.evaluation.classifier import Split, splits, to_pixels
from cmlab.evaluation.features import Extractor, extractor_for
from cmlab.evaluation.metrics import Features, Reference, frechet_distance
from cmlab.formats.checkpoints import load
from cmlab.noise import seeds_from
from cmlab.plots import plot_images
from cmlab.samplers import initial_noise, last_state, multistep
from cmlab.training.presets import data_of, find

Restore = Callable[[Tensor], Tensor]
FIGURES = Path(__file__).parent / "figures"
SHOWN, STROKES, STRIPS, PAIRS, FRAMES = 8, 12, 8, 64, 33


# --- baselines: what one would do without a model -------------------------------------------------------------------------


def mean_fill(y: Tensor, free: Tensor) -> Tensor:
    """Every missing pixel gets the picture's mean colour."""
    known = (1 - free).expand_as(y)
    mean = (y * known).sum((2, 3), keepdim=True) / known.sum((2, 3), keepdim=True)
    return torch.where(free > 0, mean, y)


def nearest_fill(y: Tensor, free: Tensor) -> Tensor:
    """Every missing pixel gets the colour of the nearest known one."""
    from scipy.ndimage import distance_transform_edt

    nearest = np.asarray(distance_transform_edt(free[0, 0].numpy(), return_distances=False, return_indices=True))
    rows, columns = torch.from_numpy(nearest).long()
    return y[..., rows, columns]


def smooth_fill(y: Tensor, free: Tensor, sweeps: int = 2000) -> Tensor:
    """The harmonic filling: every missing pixel is the mean of its neighbours (diffusion of the known colours, by Jacobi steps)."""
    x = mean_fill(y, free)
    kernel = torch.tensor([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]]).expand(y.shape[1], 1, 3, 3) / 4
    for _ in range(sweeps):
        x = torch.where(free > 0, F.conv2d(F.pad(x, [1] * 4, mode="replicate"), kernel, groups=y.shape[1]), y)
    return x


def grey(y: Tensor) -> Tensor:
    """The brightness alone."""
    return luma(y).expand_as(y)


def mean_tint(y: Tensor, tint: Tensor) -> Tensor:
    """The brightness, and in every pixel the mean colour ``tint`` (3,) of the training images, in the coordinates of the edit."""
    operator = luma_operator()
    coordinates = operator.forward(y).clone()
    coordinates[:, 1:] = tint[1:].view(1, 2, 1, 1)
    return operator.inverse(coordinates)


def enlarged(y: Tensor, patch: int, mode: str) -> Tensor:
    """The means of blocks of ``patch`` pixels, enlarged again."""
    small = F.avg_pool2d(y, patch)
    smooth = {} if mode == "nearest" else {"align_corners": False}
    return F.interpolate(small, scale_factor=patch, mode=mode, **smooth)


def gaussian_blur(y: Tensor, width: float) -> Tensor:
    """A Gaussian blur within each picture."""
    from scipy.ndimage import gaussian_filter

    return torch.from_numpy(gaussian_filter(y.numpy(), (0, 0, width, width), mode="nearest"))


def median(y: Tensor, side: int) -> Tensor:
    """The median of a square around each pixel."""
    from scipy.ndimage import median_filter

    return torch.from_numpy(median_filter(y.numpy(), (1, 1, side, side), mode="nearest"))


def best_of(truth: Tensor, settings: dict[str, Tensor]) -> tuple[str, Tensor]:
    """The setting with the highest PSNR: chosen with the truth at hand, which favours the baseline."""
    name = max(settings, key=lambda k: float(psnr(settings[k], truth).mean()))
    return name, settings[name]


# --- tasks -----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """One kind of damage: the edit that repairs it, and what the baselines make of it."""

    family: str
    name: str
    edit: Edit
    baselines: dict[str, Tensor]


def tasks(y: Tensor, tint: Tensor | None, steps: int) -> list[Task]:
    """Every task on the images y (N, C, H, W); those for colour only where there is any (``tint`` is None for grey)."""
    made = []
    for name in ("centre", "right", "random"):
        free = preset_mask(name, y.shape[1:])
        fills = {"mean colour": mean_fill(y, free), "nearest pixel": nearest_fill(y, free), "harmonic": smooth_fill(y, free)}
        label = {"right": "right half", "random": "random half"}.get(name, name)
        made.append(Task("inpaint", f"inpaint, {label}", inpaint(y, free, steps), fills))
    if tint is not None:
        made.append(Task("colorize", "colorize", colorize(y, steps), {"grey": grey(y), "mean tint": mean_tint(y, tint)}))
    for patch in (2, 4):
        ways = {mode: enlarged(y, patch, mode) for mode in ("nearest", "bilinear", "bicubic")}
        made.append(Task("super_resolve", f"super-resolve, {patch}x", super_resolve(y, patch, steps), ways))
    noise = initial_noise(y.shape[1:], seeds_from(1, len(y)), 1.0).float()
    for sigma in (0.1, 0.25, 0.5):
        noisy = y + sigma * noise
        blurs = best_of(y, {f"Gaussian blur {w:g}": gaussian_blur(noisy, w) for w in (0.3, 0.5, 0.7, 1.0, 1.4)})
        medians = best_of(y, {f"median {side}x{side}": median(noisy, side) for side in (3, 5)})
        made.append(Task("denoise", f"denoise, σ = {sigma:g}", denoise(noisy, sigma), dict([("noisy", noisy), blurs, medians])))
    return made


# --- figures ---------------------------------------------------------------------------------------------------------------


def psnr(x: Tensor, truth: Tensor) -> Tensor:
    """Peak signal to noise ratio of each image in dB, (N,): values in [-1, 1], what lies outside is cut off."""
    error = (x.double().clamp(-1, 1) - truth.double()).square().flatten(1).mean(1)
    return 10 * (4 / error.clamp_min(1e-10)).log10()


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """A mean and its standard error."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


class Judge:
    """Compares images with the true ones, pixel by pixel and in the features of a classifier."""

    def __init__(self, extractor: Extractor, truth: Tensor):
        self.extractor, self.truth = extractor, truth
        self.features = self.of(truth)
        self.reference = Reference(self.features)

    def of(self, x: Tensor) -> Features:
        parts = [self.extractor(to_pixels(part)) for part in x.split(256)]
        return Features(torch.cat([f for f, _ in parts]), torch.cat([logits for _, logits in parts]))

    def __call__(self, x: Tensor) -> tuple[dict[str, Any], Tensor]:
        """The figures of images x (N, C, H, W), and the feature distance of each, (N,)."""
        found = self.of(x)
        away = (found.features - self.features.features).double().norm(dim=1)
        fd = float(frechet_distance(found, self.reference, torch.ones(1, len(x), dtype=torch.float64)))
        return {"psnr": mean_and_error(psnr(x, self.truth)), "feature distance": mean_and_error(away), "fd": fd}, away


def disagreement(edit: Edit, result: Tensor) -> float | None:
    """The largest difference between result and reference in a coordinate that is kept; None where none is."""
    if edit.is_free:
        return None
    difference = edit.operator.forward(result.double()) - edit.operator.forward(edit.y.double())
    return float((difference * (1 - edit.free)).abs().max())


def repair(model: Denoiser, edit: Edit, label: Tensor | None, batch: int, device: str) -> Tensor:
    """The edit's result, (N, *S) float64, in batches: image k is drawn from seed k."""
    out = []
    for rows in torch.arange(len(edit.y)).split(batch):
        part = replace(edit, y=edit.y[rows], shown=None)
        kinds = None if label is None else label[rows].to(device)
        out.append(apply_edit(model, part, seeds_from(0, len(edit.y))[rows[0] : rows[-1] + 1], label=kinds, device=device).cpu())
    return torch.cat(out)


# --- interpolation ---------------------------------------------------------------------------------------------------------


def interpolations(model: Denoiser, pairs: int, frames: int, device: str) -> dict[str, Tensor]:
    """One-step samples along ``pairs`` roads between noises, (pairs, frames, *S): on great circles, and on straight lines."""
    a, b = (initial_noise(model.shape, seeds_from(seed, pairs), device=device) for seed in (2, 3))
    label = classes_in_turn(model.classes, pairs, device=device)

    def road(mix: Callable[[float], Tensor]) -> Tensor:
        levels = torch.tensor([80.0], dtype=torch.float64)
        parts = (last_state(multistep(model, mix(k / (frames - 1)), levels, label)).float().cpu() for k in range(frames))
        return torch.stack(list(parts), 1)

    return {"slerp": road(lambda t: slerp(a, b, t)), "linear": road(lambda t: (1 - t) * a + t * b)}


def path_figures(judge: Judge, roads: dict[str, Tensor]) -> dict[str, Any]:
    """Of each kind of road: its length in feature space, the same over the chord's, its longest step over the mean one, and the
    contrast of its middle frame over that of its ends; and by how much the straight road is longer, pair by pair."""
    out, lengths = {}, {}
    for kind, road in roads.items():
        pairs, frames = road.shape[:2]
        f = judge.of(road.flatten(0, 1)).features.double().reshape(pairs, frames, -1)
        steps = f.diff(dim=1).norm(dim=2)
        contrast = road.flatten(2).std(2)
        lengths[kind] = steps.sum(1)
        out[kind] = {
            "length": mean_and_error(lengths[kind]),
            "length over chord": mean_and_error(lengths[kind] / (f[:, -1] - f[:, 0]).norm(dim=1)),
            "longest step over mean": mean_and_error(steps.amax(1) / steps.mean(1)),
            "contrast in the middle": mean_and_error(contrast[:, frames // 2] / contrast[:, [0, -1]].mean(1)),
        }
    return out | {"linear over slerp": mean_and_error(lengths["linear"] / lengths["slerp"])}


# --- pictures --------------------------------------------------------------------------------------------------------------


def painting(y: Tensor) -> Tensor:
    """A rough painting of y (N, C, H, W): at most 8 x 8 blocks of at least two pixels, in six shades of each colour."""
    side = y.shape[-1]
    blocks = enlarged(y, next(n for n in range(max(2, -(-side // 8)), side + 1) if side % n == 0), "nearest")
    return ((blocks + 1) * 2.5).round() / 2.5 - 1


def show_repairs(folder: Path, stem: str, y: Tensor, done: dict[str, tuple[Task, Tensor, str]]) -> None:
    """One picture per family of tasks: the truth, and for each task what was given, the model's result, and the best baseline's."""
    few = torch.linspace(0, len(y) - 1, min(SHOWN, len(y))).round().long()
    for family in dict.fromkeys(task.family for task, _, _ in done.values()):
        rows = {"truth": y[few]}
        for name, (task, result, best) in done.items():
            if task.family == family:
                rows |= {name: task.edit.degraded[few], f"model, {name}": result[few], f"{best}, {name}": task.baselines[best][few]}
        save_figure(folder, f"{stem}-{family}", rows, "")


def save_figure(folder: Path, name: str, rows: dict[str, Tensor], title: str) -> None:
    scale = 0.42 if next(iter(rows.values())).shape[-1] <= 8 else 0.6
    folder.mkdir(parents=True, exist_ok=True)
    plot_images(rows, title, scale).savefig(folder / f"{name}.png", metadata={"Software": None})
    print(folder / f"{name}.png", flush=True)


# --- the report ------------------------------------------------------------------------------------------------------------


def measure(model: Denoiser, judge: Judge, made: list[Task], label: Tensor | None, batch: int, device: str) -> tuple[dict, dict]:
    """Figures of each task, and for the pictures: task, the model's result, and its strongest baseline in feature distance."""
    report, done = {}, {}
    for task in made:
        started = time.perf_counter()
        result = repair(model, task.edit, label, batch, device)
        seconds = time.perf_counter() - started
        figures, away = judge(result)
        rows, gains = {}, {}
        for name, x in task.baselines.items():
            rows[name], other = judge(x)
            gains[name] = mean_and_error(other - away)  # paired: > 0 where the model is nearer
        best = min(rows, key=lambda k: rows[k]["feature distance"][0])
        report[task.name] = {
            "model": figures,
            "seconds": seconds,
            "disagreement": disagreement(task.edit, result),
            "baselines": rows,
            "gain": gains,
            "best baseline": best,
            "beats": gains[best][0] > 0,
        }
        done[task.name] = (task, result, best)
        print(task.name, f"{figures['feature distance'][0]:.3f}, {best}: {rows[best]['feature distance'][0]:.3f}", flush=True)
    return report, done


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [
        f"# Zero-shot edits with {report['model']}",
        "",
        *(f"- {key}: {value}" for key, value in report["about"].items()),
        "",
        "PSNR in dB and feature distance: mean over the images, with its standard error. Gain: by how much the best baseline lies",
        "further from the truth, image by image. Kept: the largest difference from what the edit has to keep.",
        "",
        "| task | method | PSNR | feature distance | FD-cls to the truth | gain over the best baseline | kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in report["tasks"].items():
        best, kept = found["best baseline"], found["disagreement"]
        for method, figures in {"model": found["model"], **found["baselines"]}.items():
            ours = method == "model"
            cells = [name if ours else "", f"**{method}**" if ours else method + (" (best)" if method == best else "")]
            cells += [pm(figures["psnr"], 2), pm(figures["feature distance"], 3), f"{figures['fd']:.3f}"]
            cells += [pm(found["gain"][best], 3) if ours else "", "" if not ours else "-" if kept is None else f"{kept:.0e}"]
            lines.append(f"| {' | '.join(cells)} |")
    wins = sum(found["beats"] for found in report["tasks"].values())
    worst = max((found["disagreement"] or 0.0) for found in report["tasks"].values())
    paths = report["interpolation"]
    lines += [
        "",
        f"Nearer to the truth in features than every baseline: {wins} of {len(report['tasks'])} tasks. "
        f"Largest difference from what is kept: {worst:.1e}.",
        "",
        f"Interpolation, one step a frame, {report['about']['pairs']} pairs of noises, {FRAMES} frames:",
        "",
        "| road | length in features | over the chord | longest step over mean | contrast in the middle over the ends |",
        "|---|---|---|---|---|",
    ]
    for kind in ("slerp", "linear"):
        lines.append(f"| {kind} | {' | '.join(pm(value, 2) for value in paths[kind].values())} |")
    lines += ["", f"Length of the linear road over the slerp road, pair by pair: {pm(paths['linear over slerp'], 3)}."]
    return "\n".join(lines) + "\n"


def pm(value: tuple[float, float], digits: int) -> str:
    return f"{value[0]:.{digits}f} ± {value[1]:.{digits}f}"


def pick(split: Split, n: int) -> tuple[Tensor, Tensor | None]:
    """``n`` images evenly spread over the split, (n, C, H, W), and their classes."""
    if not 2 <= n <= len(split):
        raise SystemExit(f"--n must lie in 2..{len(split)}, the number of test images")
    rows = torch.arange(n) * len(split) // n
    return split.data.take(split.index[rows]), None if split.label is None else split.label[rows]


def run(name: str, data: str | None, features: str, n: int, steps: int, pairs: int, batch: int, device: str, figures: Path) -> dict:
    """Everything: the report, and the pictures in the folder ``figures``."""
    model, meta = load(find(name), device)
    if not is_consistency(model):
        raise SystemExit(f"{name} is a diffusion model: edits need a consistency model, such as one that ends in -cd")
    data = data_of(meta, data)[1]
    train, test, how = splits(data)
    y, label = pick(test, n)
    label = label if model.classes else None
    stem = f"edits-{Path(name).stem}"
    tint = None
    if y.shape[1] == 3:
        tint = luma_operator().forward(pick(train, min(2000, len(train)))[0]).mean((0, 2, 3))
    extractor = extractor_for(features, data, device=device)
    judge = Judge(extractor, y)
    found, done = measure(model, judge, tasks(y, tint, steps), label, batch, device)
    show_repairs(figures, stem, y, done)
    few = torch.linspace(0, n - 1, min(STROKES, n)).round().long()
    paintings = painting(y[few])
    results = {
        f"result {k + 1}": apply_edit(
            model, stroke(paintings), seeds_from(k, len(few)), label=None if label is None else label[few].to(device), device=device
        ).cpu()
        for k in range(2)
    }
    save_figure(figures, f"{stem}-stroke", {"truth": y[few], "painting": paintings, **results}, "")
    roads = interpolations(model, max(pairs, STRIPS), FRAMES, device)
    some = torch.linspace(0, FRAMES - 1, 11).round().long()
    strips = {f"{kind} {k + 1}": road[k, some] for k in range(STRIPS) for kind, road in roads.items() if kind == "slerp" or k < 2}
    save_figure(figures, f"{stem}-slerp", strips, "")
    about = {
        "data": data,
        "images": f"{n} of the test part ({how})"
        + (", which models of this set are trained on, too" if data in DATASETS.of_kind("images") else ""),
        "features": extractor.title,
        "steps": f"{steps} of the multistep sampler (denoising: 1)",
        "pairs": max(pairs, STRIPS),
        "device": device,
    }
    return {"model": name, "about": about, "tasks": found, "interpolation": path_figures(judge, roads)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a consistency model: a bundled name or a path")
    parser.add_argument("--data", help="the data set; by default what the checkpoint was trained on")
    parser.add_argument("--features", default="classifier", help="as cmlab evaluate has it; by default the classifier of the data")
    parser.add_argument("--n", type=int, default=200, help="number of test images")
    parser.add_argument("--steps", type=int, default=EDIT_STEPS, help="steps of the edits")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="pairs of noises to interpolate between")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the figures in numbers")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder of the pictures")
    o = parser.parse_args()
    torch.set_num_threads(1)
    report = run(o.model, o.data, o.features, o.n, o.steps, o.pairs, o.batch, o.device, o.figures)
    o.out.mkdir(parents=True, exist_ok=True)
    path = o.out / f"edits-{Path(o.model).stem}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(report))
    print(f"{table(report)}\n{path}, {path.with_suffix('.md')}")


if __name__ == "__main__":
    main()
