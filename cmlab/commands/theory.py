"""The experiments of `theory` by their names and options: for the command 'cmlab theory' and for the app."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from .. import theory
from ..base.files import write_whole
from ..base.suggest import unknown
from ..data import DATASETS, MixtureData, load_toy
from ..denoiser import Denoiser
from ..formats import checkpoints
from ..oracle import Gaussian, GaussianMixture
from .common import checkpoint_of, data_of, new_file
from .options import TheoryOptions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_USES = {
    "thm1": ("data", "checkpoint", "solver"),
    "thm2": ("data", "distance", "target"),
    "variance": ("checkpoint", "weight"),
}


@dataclass(frozen=True)
class Measured:
    """An experiment's ``result`` (a dataclass of `theory`), what to say about it, and how to draw it.

    ``names`` and ``columns`` are its table, from the coarsest grid to the finest, ``slope`` the exponents that were found.
    """

    title: str
    names: tuple[str, ...]
    columns: tuple[Sequence[float | None], ...]
    conclusions: tuple[str, ...]
    slope: dict[str, float]
    result: Any
    figure: "Callable[[], Figure]"

    def rows(self) -> list[list[str]]:
        """The table's numbers as text, "" where there is none."""
        return [
            ["" if v is None else str(v) if isinstance(v, int) else f"{v:.4g}" for v in row]
            for row in zip(*self.columns, strict=True)
        ]


def command(o: TheoryOptions) -> None:
    """Run 'cmlab theory': print the table and write the files that were asked for."""
    if o.figure is not None and o.figure.suffix != ".png":
        raise ValueError(f"--figure must end in .png, got {o.figure}")
    check(o)
    for option, path in (("--json", o.json), ("--figure", o.figure)):
        if path is not None:
            new_file(path, o.overwrite, option)
    found = measure(o)
    lines = ["  ".join(f"{cell:>12}" for cell in row) for row in (found.names, *found.rows())]
    print(found.title, *lines, *found.conclusions, sep="\n")
    if o.json is not None:
        words = json.dumps({"experiment": o.experiment, "seed": o.seed, "slope": found.slope, **asdict(found.result)}, indent=1)
        write_whole(o.json, words.encode())
    if o.figure is not None:
        write_whole(o.figure, lambda file: found.figure().savefig(file, format="png"))


def measure(o: TheoryOptions) -> Measured:
    """Run the experiment; raises ValueError for options that it has no use for."""
    check(o)
    return {"thm1": _thm1, "thm2": _thm2, "variance": _variance}[o.experiment](o)


def check(o: TheoryOptions) -> None:
    """Refuse, before any work is done, options that do not go together."""
    for option in dict.fromkeys(option for options in _USES.values() for option in options):
        users = [name for name, options in _USES.items() if option in options]
        if getattr(o, option) is not None and o.experiment not in users:
            raise ValueError(f"--{option} belongs to {' and '.join(users)}; {o.experiment} does not use it")
    if o.data is not None and o.checkpoint is not None:
        raise ValueError("the checkpoint says what its data are: leave --data out")
    if o.points is not None and o.points < 1:
        raise ValueError(f"--points must be at least 1, got {o.points}")
    if o.sizes is not None and len(theory.check_sizes(o.sizes)) < 2:
        raise ValueError("--sizes needs at least two sizes to have a slope, such as 40 80 160")


def _oracle(name: str) -> GaussianMixture:
    made = {"soft3": theory.soft3, "gaussian": lambda: Gaussian(torch.zeros(2), 0.5)}
    if name not in (known := (*made, *DATASETS.of_kind("toy"))):
        raise ValueError(unknown("2D data set", name, known))
    return made[name]() if name in made else load_toy(name).oracle


def _of_checkpoint(name: str) -> tuple[Denoiser, dict[str, Any], GaussianMixture]:
    model, meta = checkpoints.load(checkpoint_of(name))
    data, _ = data_of(meta, None)
    if not isinstance(data, MixtureData):
        raise ValueError(f"{name} makes pictures: theorems are measured where the exact score is known, choose a model of points")
    return model, meta, data.oracle


def _changed(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _range(sizes: Sequence[int], low: int) -> tuple[int, int]:
    """From ``low`` on where two sizes lie there, else all of them."""
    return (low if sum(n >= low for n in sizes) >= 2 else sizes[0]), sizes[-1]


def _thm1(o: TheoryOptions) -> Measured:
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
    says = [f"slope for N = {low}..{high}: {slope['grid']:.3f} against 1/(N-1), {slope['largest']:.3f} against the largest step"]
    if floor is not None:
        takes_over = floor.takes_over("rms")
        words = "below all of them" if takes_over is None else f"above the solver's from N = {takes_over} on"
        says.append(f"{o.checkpoint}: max error {floor.max_error:.4g}, rms error {floor.rms_error:.4g}, {words}")

    def figure() -> "Figure":
        from ..theory.figures import plot_convergence

        floors = None if floor is None else {str(o.checkpoint): floor}
        of = "max" if floor is None else "rms"
        return plot_convergence({solver: curve}, of=of, floors=floors, title=f"Theorem 1 on {name}")

    return Measured(
        f"Theorem 1 on {name} with {solver}: models of zero CD loss against the exact consistency function",
        ("N", "1/(N-1)", "largest step", "max error", "rms error", "order"),
        (curve.sizes, curve.grid, curve.largest, curve.max_error, curve.rms_error, [None, *curve.local_slopes()]),
        tuple(says), slope, curve if floor is None else floor, figure,
    )  # fmt: skip


def _thm2(o: TheoryOptions) -> Measured:
    name = o.data or "soft3"
    changed = _changed(distance=o.distance, target=o.target, sizes=o.sizes, points=o.points)
    result = theory.theorem2(oracle=_oracle(name), seed=o.seed, **changed)
    low, high = _range(result.sizes, 80)
    slope = {"difference": result.slope(low, high), "cd": result.slope(low, high, "cd"), "ct": result.slope(low, high, "ct")}

    def figure() -> "Figure":
        from ..theory.figures import plot_theorem2

        return plot_theorem2(result, f"Theorem 2 on {name}")

    return Measured(
        f"Theorem 2 on {name}: distance {o.distance or 'l2'}, target {o.target or 'other'}",
        ("N", "L_CD", "L_CT", "|L_CT-L_CD|", "L_CT/L_CD", "(N-1) L_CT"),
        (result.sizes, result.cd, result.ct, result.difference, result.ratio, result.ct_per_step),
        (f"exponent for N = {low}..{high}: {slope['difference']:.3f} of the difference, {slope['cd']:.3f} of L_CD itself",),
        slope, result, figure,
    )  # fmt: skip


def _variance(o: TheoryOptions) -> Measured:
    name = o.checkpoint or "8gaussians-edm"
    model, _, oracle = _of_checkpoint(name)
    result = theory.ct_gradient(model, oracle, seed=o.seed, **_changed(weight=o.weight, sizes=o.sizes, points=o.points))
    low, high = _range(result.sizes, 32)
    slope = {"bias": result.slope(low, high)}

    def figure() -> "Figure":
        from ..theory.figures import plot_ct_gradient

        return plot_ct_gradient({name: result}, f"The CT gradient at {name}")

    return Measured(
        f"The gradient of the CT loss at {name}, in units of the true gradient at the same N",
        ("N", "bias", "cosine", "std", "std of CD", "noise/signal"),
        (result.sizes, result.bias, result.cosine, result.std, result.cd_std, result.noise_to_signal),
        (f"exponent of the bias for N = {low}..{high}: {slope['bias']:.3f}",),
        slope, result, figure,
    )  # fmt: skip
