"""The exercises and quizzes of the lessons: reference answers, typical mistakes, hints. `cmlab.teach` shows them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .oracle import Gaussian

RIGHT, WRONG, OPEN = "right", "not yet right", "not solved yet"


@dataclass(frozen=True)
class Exercise:
    """A function that the reader writes.

    Args:
        answer: the reference; its source is what `reveal` shows and what replaces an unsolved attempt.
        wrong: functions with typical mistakes, and what to say to whoever makes them.
        hint: the way to the answer, without the answer.
        cases: gives the arguments of each test; built when needed, so that importing costs nothing.
    """

    answer: Callable[..., Any]
    wrong: Mapping[Callable[..., Any], str]
    hint: str
    cases: Callable[[], Iterable[tuple[Any, ...]]]

    def judge(self, attempt: Callable[..., Any]) -> tuple[str, str]:
        """RIGHT, WRONG or OPEN, and what to tell the reader."""
        for number, case in enumerate(self.cases(), 1):
            want = self.answer(*_copies(case))
            try:
                got = attempt(*_copies(case))
            except Exception as error:
                # A "..." that is still in the code is what raised: that is no mistake yet.
                if ... in getattr(getattr(attempt, "__code__", None), "co_consts", ()) and isinstance(error, TypeError):
                    return OPEN, ""
                return WRONG, f"Your function raised {type(error).__name__}: {error}."
            if got is None or got is ...:
                return OPEN, ""
            problem = _difference(got, want)
            if problem:
                known = (text for mistake, text in self.wrong.items() if not _difference(got, mistake(*_copies(case))))
                return WRONG, " ".join([f"Test {number}: {problem}.", *known][:2])
        return RIGHT, ""


def _copies(case: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in case)


def _difference(got: Any, want: Any) -> str:
    """What distinguishes an answer from the right one, or "": float32 rounding passes, a missing factor does not."""
    try:
        a, b = (torch.as_tensor(v).detach().double() for v in (got, want))
    except (TypeError, ValueError, RuntimeError):
        return f"expected a tensor, got {type(got).__name__}"
    if a.shape != b.shape:
        return f"expected shape {tuple(b.shape)}, got {tuple(a.shape)}"
    if not bool(a.isfinite().all()):
        return "the result holds values that are not finite"
    error = (a - b).abs()
    if float(error.max()) <= 1e-4 * max(float(b.abs().max()), 1e-3):
        return ""
    worst = int(error.argmax())
    return f"expected {float(b.flatten()[worst]):.4g}, got {float(a.flatten()[worst]):.4g} where the two differ most"


@dataclass(frozen=True)
class Question:
    """``options``: key -> (what it says, what to answer to whoever picks it); ``right`` is the correct key."""

    text: str
    options: Mapping[str, tuple[str, str]]
    right: str


# --- the answers ---------------------------------------------------------------------------------------------------------
# Untyped on purpose: their source is shown to the reader and pasted into a notebook that has imported torch alone.


def _one_step(f, noise, sigma_max):
    x = sigma_max * noise  # the start of the PF-ODE
    return f(x, torch.tensor(sigma_max))


def _one_step_unscaled(f, noise, sigma_max):
    return f(noise, torch.tensor(sigma_max))


def _one_step_wrong_level(f, noise, sigma_max):
    return f(sigma_max * noise, torch.tensor(0.002))


def _add_noise(x0, sigma, eps):
    return x0 + sigma * eps


def _add_noise_variance(x0, sigma, eps):
    return x0 + sigma**2 * eps


def _add_noise_preserving(x0, sigma, eps):
    return (1 - sigma**2) ** 0.5 * x0 + sigma * eps


def _diffuse(x, sigmas, z):
    for k in range(len(z)):
        sigma, dsigma = sigmas[k], sigmas[k + 1] - sigmas[k]
        x = x + (2 * sigma * dsigma).sqrt() * z[k]
    return x


def _diffuse_like_an_ode(x, sigmas, z):
    for k in range(len(z)):
        sigma, dsigma = sigmas[k], sigmas[k + 1] - sigmas[k]
        x = x + (2 * sigma).sqrt() * dsigma * z[k]
    return x


def _diffuse_without_two(x, sigmas, z):
    for k in range(len(z)):
        sigma, dsigma = sigmas[k], sigmas[k + 1] - sigmas[k]
        x = x + (sigma * dsigma).sqrt() * z[k]
    return x


def _tweedie(x, sigma, score):
    return x + sigma**2 * score


def _tweedie_first_power(x, sigma, score):
    return x + sigma * score


def _tweedie_uphill(x, sigma, score):
    return x - sigma**2 * score


def _euler_solve(denoise, x, sigmas):
    for k in range(len(sigmas) - 1):
        slope = (x - denoise(x, sigmas[k])) / sigmas[k]
        x = x + (sigmas[k + 1] - sigmas[k]) * slope
    return x


def _euler_solve_as_printed(denoise, x, sigmas):
    for k in range(len(sigmas) - 1):
        score = (denoise(x, sigmas[k]) - x) / sigmas[k] ** 2
        x = x + (sigmas[k + 1] - sigmas[k]) * -score
    return x


def _euler_solve_backwards(denoise, x, sigmas):
    for k in range(len(sigmas) - 1):
        slope = (x - denoise(x, sigmas[k])) / sigmas[k]
        x = x + (sigmas[k] - sigmas[k + 1]) * slope
    return x


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def _blob() -> Gaussian:
    return Gaussian(torch.tensor([0.3, -0.2]), 0.5)


EXERCISES: dict[str, Exercise] = {
    "add_noise": Exercise(
        _add_noise,
        {
            _add_noise_variance: "sigma is a standard deviation here, not a variance: it multiplies the unit noise as it is.",
            _add_noise_preserving: "That is DDPM's variance-preserving form. In this package the data keep their size.",
        },
        "The noisy picture is the clean one plus noise; sigma says how many times the unit noise. Nothing shrinks x0.",
        lambda: [(_normal(3, 2), s, _normal(2, 3).T) for s in (0.5, 0.9)],
    ),
    "one_step": Exercise(
        _one_step,
        {
            _one_step_unscaled: "The model was told sigma_max but received noise of size 1: multiply the noise first.",
            _one_step_wrong_level: "At sigma = 0.002 a consistency model returns its input: tell it the level that x really has.",
        },
        "Two lines: make the starting point, sigma_max times unit noise, then call f on it with the level that it has.",
        lambda: [(_blob().consistency, _normal(4, 2), s) for s in (80.0, 10.0)],
    ),
    "diffuse": Exercise(
        _diffuse,
        {
            _diffuse_like_an_ode: "dw is not dsigma: over a stretch dsigma, Brownian motion moves by sqrt(dsigma) z.",
            _diffuse_without_two: "g(t) = sqrt(2 t): the 2 is missing, so the variance comes out half as large.",
        },
        "One step adds g(sigma) * dw, with g(sigma) = sqrt(2 * sigma) and dw = sqrt(dsigma) * z[k].",
        lambda: [(_normal(5, 2), torch.linspace(0.5, 2, 9, dtype=torch.float64), _normal(8, 5, 2))],
    ),
    "tweedie": Exercise(
        _tweedie,
        {
            _tweedie_first_power: "One factor sigma is missing: a score is 1/length, so it takes a length squared.",
            _tweedie_uphill: "The sign is turned: the score points to where data are dense, so the clean point lies along it.",
        },
        "The score is (D - x) / sigma^2. Solve for D.",
        lambda: [(_normal(6, 2), torch.tensor(s, dtype=torch.float64), _normal(2, 6).T) for s in (0.3, 3.0)],
    ),
    "euler_solve": Exercise(
        _euler_solve,
        {
            _euler_solve_as_printed: "That is the slide's Phi = -s. Eq. 3 has a factor t in front of the score: dx/dt = -t s.",
            _euler_solve_backwards: "sigmas decrease, so every step is negative: you walk away from the data.",
        },
        "Eq. 3 is dx/dsigma = -sigma * s = (x - D) / sigma. Take that slope at x, times the step sigmas[k + 1] - sigmas[k].",
        lambda: [(_blob(), 3 * _normal(4, 2), torch.tensor(grid, dtype=torch.float64)) for grid in ((3.0, 2.0), (2.0, 0.8, 0.1))],
    ),
}  # fmt: skip

QUIZZES: dict[str, tuple[Question, ...]] = {
    "00": (
        Question(
            "What does a consistency model return when you call it at the lowest level, sigma = 0.002?",
            {
                "a": ("the mean of the data", "That is what a diffusion model's denoiser returns at the highest level."),
                "b": ("its input", "This is the boundary condition; it holds bit for bit, whatever the weights are."),
                "c": ("pure noise", "Nothing in cmlab turns data into noise except the line that adds it."),
            },
            "b",
        ),
        Question(
            "Why does one step of the diffusion model give a blur?",
            {
                "a": ("It was trained for too short a time.", "A perfect denoiser does the same: see the oracle in notebook 01."),
                "b": ("Its weights are stored in half precision.", "The same weights give sharp digits in 18 steps."),
                "c": ("Its answer at high noise is an average over the data.", "Yes: D is a mean, f is one end point."),
            },
            "c",
        ),
        Question(
            "You leave an exercise unsolved. What do the later cells run on?",
            {
                "a": ("on the library's answer", "Yes, so you can read on and come back."),
                "b": ("they stop with an error", "Try it: choose 'Run All Cells' in a fresh notebook."),
            },
            "a",
        ),
    ),
    "01": (
        Question(
            "x is a sum of data and noise of size sigma. What is the exact D(x, sigma)?",
            {
                "a": ("the data point that was used", "Several data points could have given this x; D averages over them."),
                "b": ("the mean of x0 given x", "Yes, and Tweedie's formula gets it from the score."),
                "c": ("the end of the PF-ODE path through x", "That is f. The two agree only when sigma is small."),
            },
            "b",
        ),
        Question(
            "What do the SDE and the PF-ODE have in common?",
            {
                "a": ("the distribution of x at every noise level", "Yes: the marginals, nothing more."),
                "b": ("the paths", "The fans show it: one path against many from the same start."),
                "c": ("the joint distribution of start and end", "The printed correlations differ."),
            },
            "a",
        ),
        Question(
            "Which number must a consistency model return for two points of the same path?",
            {
                "a": ("their own denoised means D", "D changes along the path: see the last column of the table."),
                "b": ("the same end point", "Yes: self-consistency is the definition turned into a training signal."),
                "c": ("their difference over the step", "That is the slope that an ODE solver uses."),
            },
            "b",
        ),
    ),
}  # fmt: skip
