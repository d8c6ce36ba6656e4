"""Exercises and quiz of lesson 01."""

import torch

from .base import Exercise, Question, blob, normal


def diffuse(x, sigmas, z):
    for k in range(len(z)):
        sigma, dsigma = sigmas[k], sigmas[k + 1] - sigmas[k]
        x = x + (2 * sigma * dsigma).sqrt() * z[k]
    return x


def tweedie(x, sigma, score):
    return x + sigma**2 * score


def euler_solve(denoise, x, sigmas):
    for k in range(len(sigmas) - 1):
        slope = (x - denoise(x, sigmas[k])) / sigmas[k]
        x = x + (sigmas[k + 1] - sigmas[k]) * slope
    return x


EXERCISES = (
    Exercise(
        diffuse,
        (
            "How far does Brownian motion go in a stretch of length dsigma? Not a distance of dsigma.",
            "dw over the stretch has variance dsigma, and g is the root of 2 t (slide 'variance exploding'). Each step adds "
            "g dw to the x of the step before.",
        ),
        lambda: [
            (normal(5, 2), torch.linspace(low, 2, 9, dtype=torch.float64) ** 2, normal(8, 5, 2)) for low in (0.5, 1.2)
        ],
        {
            "dw is not dsigma: over a stretch dsigma, Brownian motion moves by sqrt(dsigma) z.":
                {"(2 * sigma * dsigma).sqrt()": "(2 * sigma).sqrt() * dsigma"},
            "g(t) = sqrt(2 t): the 2 is missing, so the variance comes out half as large.": {"2 * ": ""},
        },
        {
            "Yours is the exact increment, sqrt(s2^2 - s1^2): right for a step of any length. The text's Euler step tends to it.":
                {"(2 * sigma * dsigma).sqrt()": "(sigmas[k + 1] ** 2 - sigma**2).sqrt()"},
        },
    ),
    Exercise(
        tweedie,
        (
            "The text above has the score as a difference of D and x. Turn it round.",
            "A score has the unit 1 / length. What must it be multiplied by to become a length, the way from x to D?",
        ),
        lambda: [(normal(6, 2), torch.tensor(s, dtype=torch.float64), normal(2, 6).T) for s in (0.3, 3.0)],
        {
            "One factor sigma is missing: a score is 1/length, so it takes a length squared.": {"sigma**2": "sigma"},
            "The sign is turned: the score points to where data are dense, so the clean point lies along it.": {"x +": "x -"},
        },
    ),
    Exercise(
        euler_solve,
        (
            "One step of Euler: slope where you are, times the signed length of the step.",
            "Eq. 3 holds the score; the score is (D - x) over the square of the level. Put it in, and one power of the "
            "level cancels. The levels fall, so the step is negative by itself.",
        ),
        lambda: [(blob(), 3 * normal(4, 2), torch.tensor(grid, dtype=torch.float64)) for grid in ((3.0, 2.0), (2.0, 0.8, 0.1))],
        {
            "That is the slide's Phi = -s. Eq. 3 has a factor t in front of the score: dx/dt = -t s.":
                {"/ sigmas[k]": "/ sigmas[k] ** 2"},
            "sigmas decrease, so every step is negative: you walk away from the data.":
                {"sigmas[k + 1] - sigmas[k]": "sigmas[k] - sigmas[k + 1]"},
        },
    ),
)  # fmt: skip

QUIZ = (
    Question("x is a sum of data and noise of size sigma. What is the exact D(x, sigma)?", "b", {
        "a": ("the data point that was used", "Several data points could have given this x; D averages over them."),
        "b": ("the mean of x0 given x", "Yes, and Tweedie's formula gets it from the score."),
        "c": ("the end of the PF-ODE path through x", "That is f. The two agree only when sigma is small."),
    }),
    Question("What do the SDE and the PF-ODE have in common?", "a", {
        "a": ("the distribution of x at every noise level", "Yes: the marginals, nothing more."),
        "b": ("the paths", "The fans show it: one path against many from the same start."),
        "c": ("the joint distribution of start and end", "The printed correlations differ."),
    }),
    Question("Which number must a consistency model return for two points of the same path?", "b", {
        "a": ("their own denoised means D", "D changes along the path: see the last column of the table."),
        "b": ("the same end point", "Yes: self-consistency is the definition turned into a training signal."),
        "c": ("their difference over the step", "That is the slope that an ODE solver uses."),
    }),
)  # fmt: skip
