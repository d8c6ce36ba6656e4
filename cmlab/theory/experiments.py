"""The experiments of `theory` as 'cmlab theory' and the app run them: by name, with a table, a slope, words and a figure.

Each takes ``sampled`` (the seed and, where they are said, ``sizes`` and ``points``) and the options that are its own. Its record
says what these may be, and of which size it is measured in seconds (``small``). Its docstring is what the app tells of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from .. import theory
from ..base.registry import EXPERIMENTS
from ..base.suggest import unknown
from ..data import DATASETS, MixtureData, load_toy
from ..denoiser import Denoiser
from ..formats import checkpoints
from ..oracle import Gaussian, GaussianMixture
from ..training.presets import data_of, find

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    def table(self) -> list[list[str]]:
        """The heading, and the numbers as text, "" where there is none."""
        cells = ([str(v) if isinstance(v, int) else f"{v:.4g}" if v is not None else "" for v in column] for column in self.columns)
        return [list(self.names), *map(list, zip(*cells, strict=True))]


_MADE = {"soft3": theory.soft3, "gaussian": lambda: Gaussian(torch.zeros(2), 0.5)}


def distributions() -> tuple[str, ...]:
    """What ``data`` may be: the distributions whose score is exact."""
    return (*_MADE, *DATASETS.of_kind("toy"))


def _oracle(name: str) -> GaussianMixture:
    if name not in (known := distributions()):
        raise ValueError(unknown("2D data set", name, known))
    return _MADE[name]() if name in _MADE else load_toy(name).oracle


def _of_checkpoint(name: str) -> tuple[Denoiser, str, GaussianMixture]:
    """The model, the name of the data that it was trained on, and their exact score."""
    model, meta = checkpoints.load(find(name))
    data, data_name = data_of(meta)
    if not isinstance(data, MixtureData):
        raise ValueError(f"{name} makes pictures: theorems are measured where the exact score is known, choose a model of points")
    return model, data_name, data.oracle


def _range(sizes: Sequence[int], low: int) -> tuple[int, int]:
    """From ``low`` on where two sizes lie there, else all of them."""
    return (low if sum(n >= low for n in sizes) >= 2 else sizes[0]), sizes[-1]


def _beside(found: float, order: int, holds: str) -> str:
    """What an exponent that was measured says of a theorem's, which ``holds`` for small steps."""
    return f"that is the theorem's {order}" if abs(found - order) <= 0.2 else f"not the theorem's {order}, which holds {holds}"


@EXPERIMENTS.register(
    "thm1", "Theorem 1: CD's error", "the error of models of zero CD loss against the step size; its slope is the solver's order",
    solver=("euler", "heun", "midpoint", "midpoint-sigma"), small={"sizes": (10, 20, 40, 80, 160, 320), "points": 64},
)  # fmt: skip
def theorem1(sampled: dict[str, Any], *, data: str = "soft3", checkpoint: str | None = None, solver: str = "heun") -> Measured:
    """A model of zero CD loss is the solver itself, walked down the grid.

    **How far is it from the exact consistency function?** The theorem says: once the steps are small for the data, the max error
    falls like the step to the power of the solver's order, 1 for Euler and 2 for the others. A trained model adds a floor that no
    finer grid removes.
    """
    floor, name = None, data
    if checkpoint is None:
        curve = theory.theorem1(solver, _oracle(data), **sampled)
    else:
        model, name, oracle = _of_checkpoint(checkpoint)
        if not model.traits.consistency:
            raise ValueError(f"{checkpoint} is a diffusion model: choose a consistency model such as two-moons-cd")
        floor = theory.trained_floor(model, oracle, solver, **sampled)
        curve = floor.curve
    low, high = _range(curve.sizes, 40)
    slope = {"grid": curve.slope(low, high), "largest": curve.slope(low, high, "largest")}
    says = [f"slope for N = {low}..{high}: {slope['grid']:.3f} against 1/(N-1), {slope['largest']:.3f} against the largest step"]
    small = "for steps that are small for the data: soft3 needs the fewest"
    says.append(_beside(slope["grid"], 1 if solver == "euler" else 2, small))
    if floor is not None:
        takes_over = floor.takes_over("max")
        words = "below all of them" if takes_over is None else f"above the solver's from N = {takes_over} on"
        says.append(f"{checkpoint}: max error {floor.max_error:.4g}, rms error {floor.rms_error:.4g}; the max error is {words}")

    def figure() -> "Figure":
        from ..theory.figures import plot_convergence

        floors = None if floor is None else {str(checkpoint): floor}
        return plot_convergence({solver: curve}, floors=floors, title=f"Theorem 1 on {name}")

    return Measured(
        f"Theorem 1 on {name} with {solver}: models of zero CD loss against the exact consistency function",
        ("N", "1/(N-1)", "largest step", "max error", "rms error", "order"),
        (curve.sizes, curve.grid, curve.largest, curve.max_error, curve.rms_error, [None, *curve.local_slopes()]),
        tuple(says), slope, curve if floor is None else floor, figure,
    )  # fmt: skip


@EXPERIMENTS.register(
    "thm2", "Theorem 2: CD and CT", "CD loss against CT loss as the steps shrink; the slope of their difference is 2",
    distance=("l2", "huber", "l1"), target=("other", "online"),
    small={"sizes": (10, 20, 40, 80, 160, 320), "points": 16},
)  # fmt: skip
def theorem2(sampled: dict[str, Any], *, data: str = "soft3", distance: str = "l2", target: Any = "other") -> Measured:
    """CT replaces the teacher's score by one noisy sample of it.

    **What does that change in the loss?** The theorem says: nothing at first order. As the steps become small, the two losses meet
    like the square of the step.
    """
    result = theory.theorem2(distance, target, oracle=_oracle(data), **sampled)
    low, high = _range(result.sizes, 80)
    slope = {"difference": result.slope(low, high), "cd": result.slope(low, high, "cd"), "ct": result.slope(low, high, "ct")}

    def figure() -> "Figure":
        from ..theory.figures import plot_theorem2

        return plot_theorem2(result, f"Theorem 2 on {data}")

    return Measured(
        f"Theorem 2 on {data}: distance {distance}, target {target}",
        ("N", "L_CD", "L_CT", "|L_CT-L_CD|", "L_CT/L_CD", "(N-1) L_CT"),
        (result.sizes, result.cd, result.ct, result.difference, result.ratio, result.ct_per_step),
        (
            f"exponent for N = {low}..{high}: {slope['difference']:.3f} of the difference, {slope['cd']:.3f} of L_CD itself",
            _beside(slope["difference"], 2, "for small steps, a smooth distance such as l2, and another network as target"),
        ),
        slope, result, figure,
    )  # fmt: skip


@EXPERIMENTS.register(
    "variance", "CT's gradient: bias and noise", "bias and spread of the CT gradient against N",
    weight=("1", "1/dt"), small={"sizes": (2, 4, 8, 16, 32, 64, 128), "points": 24},
)  # fmt: skip
def variance(sampled: dict[str, Any], *, checkpoint: str = "8gaussians-edm", weight: Any = "1") -> Measured:
    """**Why start with few levels and end with many?**

    At small N the gradient of CT is biased, like 1/N; at large N the bias is gone and the noise of a single sample remains. N(k)
    walks from one end to the other.
    """
    model, _, oracle = _of_checkpoint(checkpoint)
    result = theory.ct_gradient(model, oracle, weight=weight, **sampled)
    low, high = _range(result.sizes, 32)
    slope = {"bias": result.slope(low, high)}

    def figure() -> "Figure":
        from ..theory.figures import plot_ct_gradient

        return plot_ct_gradient({checkpoint: result}, f"The CT gradient at {checkpoint}")

    return Measured(
        f"The gradient of the CT loss at {checkpoint}, in units of the true gradient at the same N",
        ("N", "bias", "cosine", "std", "std of CD", "noise/signal"),
        (result.sizes, result.bias, result.cosine, result.std, result.cd_std, result.noise_to_signal),
        (f"exponent of the bias for N = {low}..{high}: {slope['bias']:.3f}",),
        slope, result, figure,
    )  # fmt: skip
