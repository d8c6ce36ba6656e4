"""Progressive distillation: a student makes in one step what its teacher makes in two, again and again (arXiv 2202.00512)."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from ..base.registry import LOSSES, SAMPLERS
from ..base.suggest import check_choice
from ..denoiser import Denoise, Label, Precond
from ..distances import Distance
from ..losses import WEIGHTS, Given, Loss, LossOut, Weight
from ..noise import RHO, SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, expand, karras_sigmas, noise_like, send
from ..samplers import Hook, Noise, Steps, asking, euler_step, refuse_noise, walk
from ..schedules import HalvingN


@SAMPLERS.register("progressive", "Progressive", "a progressively distilled student on its own grid", kind="distilled")
@torch.no_grad()
def progressive(
    denoise: Denoise, x: Tensor, sigmas: Tensor, label: Label = None, *, noise: Noise = None, project: Hook = None
) -> Steps:
    """A progressively distilled student walks the very grid that it was distilled on, by Euler's method (PD, Algorithm 2).

    It was never taught a step to 0, so the levels must end above 0: k + 1 levels `karras_sigmas(k + 1)` for k steps.
    """
    refuse_noise(noise, "progressive")
    if float(sigmas[-1]) == 0:
        raise ValueError("a progressively distilled student stops at its lowest level: leave out the 0 at the end")
    yield from walk(euler_step, denoise, x, sigmas, label, project)


@LOSSES.register(
    "pd",
    "Progressive distillation",
    "One step of the student does what two of the teacher do; the student becomes the teacher, and its steps halve, "
    "from 64 to 1. It is sampled in as many steps as it has at the time.",
    kind="distilled",
    start="edm",
    lr=2e-3,
    ema=0.99,  # an average over more steps than a stage has would remember the stage before
    images=True,
)
@dataclass(frozen=True)
class ProgressiveLoss(Loss):
    """Progressive distillation: one step of the student does what two Euler steps of the teacher do (2202.00512; CM, appendix C).

    The student has N steps on a Karras grid, the teacher 2N. After each N the student becomes the teacher (`fit` does that), and
    N halves down to 1. What the student learns is the x0_hat whose Euler step from sigma to the next level of its grid arrives
    where the teacher's two steps do.

    Args:
        n: number of the student's steps over the training.
        distance: between the student's and that x0_hat.
        weight: lambda at sigma, see WEIGHTS.
        teacher_from: what becomes the next teacher and starts the next student: "model", the weights themselves (the official
            codes), or "ema", their moving average.
        sigma_data: standard deviation of the data: for the weight "karras", and for the model's scalings.
        sigma_min: the grid's lowest level, where the last step ends.
        sigma_max: the grid's highest level.
        rho: the grid's exponent.
    """

    n: HalvingN = field(default_factory=HalvingN)
    distance: Distance = field(default_factory=Distance)
    weight: Weight = "truncated-snr"
    teacher_from: Literal["model", "ema"] = "model"
    sigma_data: float = SIGMA_DATA
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    rho: float = RHO
    needs_teacher = True

    def __post_init__(self):
        check_choice("weight", self.weight, WEIGHTS)
        check_choice("teacher_from", self.teacher_from, ("model", "ema"))

    @property
    def evaluations(self) -> int:
        return 3 + 2  # two steps of the teacher

    @property
    def precond(self) -> Precond:
        return Precond(self.sigma_data)

    def sampled(self, progress: float = 1.0) -> dict[str, Any]:
        return {"sampler": "progressive", "steps": self.n(progress)}

    def stages(self, steps: int) -> list[range]:
        """The steps 0 ... steps - 1 of a training, cut where N changes.

        Raises ValueError where N is no power of two: half of an odd number of steps is none of the teacher's.
        """
        if self.n.start & (self.n.start - 1):
            raise ValueError(f"the number of steps is halved down to 1: choose a power of two such as 64, not {self.n.start}")
        borders = [k for k in range(1, steps) if self.n(k / steps) != self.n((k - 1) / steps)]
        return [range(a, b) for a, b in zip([0, *borders], [*borders, steps], strict=True)]

    def of_each(self, model: Denoise, x0: Tensor, label: Label, given: Given) -> LossOut:
        assert given.teacher is not None
        n = self.n(given.progress)
        grid = karras_sigmas(2 * n + 1, self.sigma_min, self.sigma_max, self.rho)
        i = 2 * (given.draws.uniform((len(x0),)).double() * n).long().clamp_max(n - 1)
        levels = grid[i], grid[i + 1], grid[i + 2]
        share = (levels[2] * (levels[0] - levels[1])) / (levels[1] * (levels[0] - levels[2]))
        sigma, middle, end = (send(s, x0.device, x0.dtype) for s in levels)
        x = x0 + expand(sigma, x0) * noise_like(x0, given.draws)
        with torch.no_grad():
            teacher = asking(given.teacher, label)
            first = euler_step(teacher, x, sigma, middle)
            second = euler_step(teacher, first.x, middle, end)
            # x - sigma (x_end - x) / (end - sigma), written as a mean of the teacher's two answers: nothing cancels in it.
            goal = torch.lerp(second.x0_hat.to(x0), first.x0_hat.to(x0), expand(send(share, x0.device, x0.dtype), x0))
        weight = WEIGHTS[self.weight](sigma, self.sigma_data)
        return LossOut(weight * self.distance(model(x, sigma, label), goal), sigma, weight)
