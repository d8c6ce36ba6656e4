"""The command 'cmlab theory'."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from . import checkpoints, theory
from .common import data_of, new_file, write_file
from .data import TOYS, MixtureData, load_toy, unknown
from .denoiser import Denoiser
from .options import TheoryOptions
from .oracle import Gaussian, GaussianMixture
from .presets import find

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_USES = {
    "thm1": ("data", "checkpoint", "solver"),
    "thm2": ("data", "distance", "target"),
    "variance": ("checkpoint", "weight"),
}


def measure(o: TheoryOptions) -> None:
    """Run 'cmlab theory': print the table and write the files that were asked for."""
    _check(o)
    for path in (o.json, o.figure):
        if path is not None:
            new_file(path, o.overwrite)
    result, slope, figure = {"thm1": _thm1, "thm2": _thm2, "variance": _variance}[o.experiment](o)
    if o.json is not None:
        words = json.dumps({"experiment": o.experiment, "seed": o.seed, "slope": slope, **asdict(result)}, indent=1)
        write_file(o.json, lambda file: file.write(words.encode()))
    if o.figure is not None:
        write_file(o.figure, lambda file: figure().savefig(file, format="png"))


def _check(o: TheoryOptions) -> None:
    for option in dict.fromkeys(option for options in _USES.values() for option in options):
        users = [name for name, options in _USES.items() if option in options]
        if getattr(o, option) is not None and o.experiment not in users:
            raise ValueError(f"--{option} belongs to {' and '.join(users)}; {o.experiment} does not use it")
    if o.data is not None and o.checkpoint is not None:
        raise ValueError("the checkpoint says what its data are: leave --data out")
    if o.figure is not None and o.figure.suffix != ".png":
        raise ValueError(f"--figure must end in .png, got {o.figure}")
    if o.points is not None and o.points < 1:
        raise ValueError(f"--points must be at least 1, got {o.points}")
    if o.sizes is not None and len(theory.check_sizes(o.sizes)) < 2:
        raise ValueError("--sizes needs at least two sizes to have a slope, such as 40 80 160")


def _oracle(name: str) -> GaussianMixture:
    made = {"soft3": theory.soft3, "gaussian": lambda: Gaussian(torch.zeros(2), 0.5)}
    if name not in (*made, *TOYS):
        raise ValueError(unknown("2D data set", name, (*made, *TOYS)))
    return made[name]() if name in made else load_toy(name).oracle


def _of_checkpoint(name: str) -> tuple[Denoiser, dict[str, Any], GaussianMixture]:
    model, meta = checkpoints.load(find(name))
    data, _ = data_of(meta, None)
    if not isinstance(data, MixtureData):
        raise ValueError(f"{name} makes pictures: theorems are measured where the exact score is known, choose a model of points")
    return model, meta, data.oracle


def _changed(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _table(names: Sequence[str], *columns: Sequence[float | None]) -> None:
    print("  ".join(f"{name:>12}" for name in names))
    for row in zip(*columns, strict=True):
        print("  ".join(" " * 12 if v is None else f"{v:>12d}" if isinstance(v, int) else f"{v:>12.4g}" for v in row))


def _range(sizes: Sequence[int], low: int) -> tuple[int, int]:
    """From ``low`` on where two sizes lie there, else all of them."""
    return (low if sum(n >= low for n in sizes) >= 2 else sizes[0]), sizes[-1]


def _thm1(o: TheoryOptions) -> tuple[Any, dict[str, float], Any]:
    solver = o.solver or "heun"
    changed = _changed(sizes=o.sizes, points=o.points)
    floor = None
    if o.checkpoint is None:
        name = o.data or "soft3"
        curve = theory.theorem1(solver, _oracle(name), seed=o.seed, **changed)
    else:
        model, meta, oracle = _of_checkpoint(o.checkpoint)
        if not model.precond.consistency:
            raise ValueError(f"{o.checkpoint} is a diffusion model: choose a consistency model such as two-moons-cd")
        name = data_of(meta, None)[1]
        floor = theory.trained_floor(model, oracle, solver, seed=o.seed, **changed)
        curve = floor.curve
    low, high = _range(curve.sizes, 40)
    slope = {"grid": curve.slope(low, high), "largest": curve.slope(low, high, "largest")}
    print(f"Theorem 1 on {name} with {solver}: models of zero CD loss against the exact consistency function")
    orders = [None, *curve.local_slopes()]
    _table(
        ("N", "1/(N-1)", "largest step", "max error", "rms error", "order"),
        curve.sizes, curve.grid, curve.largest, curve.max_error, curve.rms_error, orders,
    )  # fmt: skip
    print(f"slope for N = {low}..{high}: {slope['grid']:.3f} against 1/(N-1), {slope['largest']:.3f} against the largest step")
    if floor is not None:
        takes_over = floor.takes_over("rms")
        words = "below all of them" if takes_over is None else f"above the solver's from N = {takes_over} on"
        print(f"{o.checkpoint}: max error {floor.max_error:.4g}, rms error {floor.rms_error:.4g}, {words}")

    def figure() -> "Figure":
        from .plots_theory import plot_convergence

        floors = None if floor is None else {str(o.checkpoint): floor}
        of = "max" if floor is None else "rms"
        return plot_convergence({solver: curve}, of=of, floors=floors, title=f"Theorem 1 on {name}")

    return (curve if floor is None else floor), slope, figure


def _thm2(o: TheoryOptions) -> tuple[Any, dict[str, float], Any]:
    name = o.data or "soft3"
    changed = _changed(distance=o.distance, target=o.target, sizes=o.sizes, points=o.points)
    result = theory.theorem2(oracle=_oracle(name), seed=o.seed, **changed)
    low, high = _range(result.sizes, 80)
    slope = {"difference": result.slope(low, high), "cd": result.slope(low, high, "cd"), "ct": result.slope(low, high, "ct")}
    print(f"Theorem 2 on {name}: distance {o.distance or 'l2'}, target {o.target or 'other'}")
    names = ("N", "L_CD", "L_CT", "|L_CT-L_CD|", "L_CT/L_CD", "(N-1) L_CT")
    _table(names, result.sizes, result.cd, result.ct, result.difference, result.ratio, result.ct_per_step)
    print(f"exponent for N = {low}..{high}: {slope['difference']:.3f} of the difference, {slope['cd']:.3f} of L_CD itself")

    def figure() -> "Figure":
        from .plots_theory import plot_theorem2

        return plot_theorem2(result, f"Theorem 2 on {name}")

    return result, slope, figure


def _variance(o: TheoryOptions) -> tuple[Any, dict[str, float], Any]:
    name = o.checkpoint or "8gaussians-edm"
    model, _, oracle = _of_checkpoint(name)
    result = theory.ct_gradient(model, oracle, seed=o.seed, **_changed(weight=o.weight, sizes=o.sizes, points=o.points))
    low, high = _range(result.sizes, 32)
    slope = {"bias": result.slope(low, high)}
    print(f"The gradient of the CT loss at {name}, in units of the true gradient at the same N")
    names = ("N", "bias", "cosine", "std", "std of CD", "noise/signal")
    _table(names, result.sizes, result.bias, result.cosine, result.std, result.cd_std, result.noise_to_signal)
    print(f"exponent of the bias for N = {low}..{high}: {slope['bias']:.3f}")

    def figure() -> "Figure":
        from .plots_theory import plot_ct_gradient

        return plot_ct_gradient({name: result}, f"The CT gradient at {name}")

    return result, slope, figure
