"""Exercises and quiz of lesson 01: reference answers, typical mistakes, hints."""

import torch

from .base import Exercise, Question, blob, normal

# Untyped on purpose: their source is shown to the reader and pasted into a notebook that has imported torch alone.


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


EXERCISES: dict[str, Exercise] = {
    "diffuse": Exercise(
        _diffuse,
        {
            _diffuse_like_an_ode: "dw is not dsigma: over a stretch dsigma, Brownian motion moves by sqrt(dsigma) z.",
            _diffuse_without_two: "g(t) = sqrt(2 t): the 2 is missing, so the variance comes out half as large.",
        },
        "One step adds g(sigma) * dw, with g(sigma) = sqrt(2 * sigma) and dw = sqrt(dsigma) * z[k].",
        lambda: [(normal(5, 2), torch.linspace(0.5, 2, 9, dtype=torch.float64), normal(8, 5, 2))],
    ),
    "tweedie": Exercise(
        _tweedie,
        {
            _tweedie_first_power: "One factor sigma is missing: a score is 1/length, so it takes a length squared.",
            _tweedie_uphill: "The sign is turned: the score points to where data are dense, so the clean point lies along it.",
        },
        "The score is (D - x) / sigma^2. Solve for D.",
        lambda: [(normal(6, 2), torch.tensor(s, dtype=torch.float64), normal(2, 6).T) for s in (0.3, 3.0)],
    ),
    "euler_solve": Exercise(
        _euler_solve,
        {
            _euler_solve_as_printed: "That is the slide's Phi = -s. Eq. 3 has a factor t in front of the score: dx/dt = -t s.",
            _euler_solve_backwards: "sigmas decrease, so every step is negative: you walk away from the data.",
        },
        "Eq. 3 is dx/dsigma = -sigma * s = (x - D) / sigma. Take that slope at x, times the step sigmas[k + 1] - sigmas[k].",
        lambda: [(blob(), 3 * normal(4, 2), torch.tensor(grid, dtype=torch.float64)) for grid in ((3.0, 2.0), (2.0, 0.8, 0.1))],
    ),
}  # fmt: skip

QUIZ: tuple[Question, ...] = (
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
)  # fmt: skip
