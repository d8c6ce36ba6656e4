"""Exercises and quiz of lesson 05."""

import torch

from .base import Exercise, Question, normal


def compose(step, x, sigmas):
    for k in range(len(sigmas) - 1):
        x = step(x, sigmas[k], sigmas[k + 1])
    return x


def order(steps, errors):
    return (errors[1:] / errors[:-1]).log() / (steps[1:] / steps[:-1]).log()


def _bend(x, sigma, sigma_next):
    """Some step; in another order, such steps end elsewhere (Euler's steps for a Gaussian would not)."""
    return x + (sigma_next - sigma) * torch.tanh(x / sigma)


EXERCISES = (
    Exercise(
        compose,
        (
            "Zero loss says f(x, sigma) = f(step(x), sigma_next). Go on until the boundary condition answers.",
            "Carry x from each level of the grid to its neighbour. N levels have N - 1 gaps.",
        ),
        lambda: [(_bend, 3 * normal(4, 2), torch.tensor(s, dtype=torch.float64)) for s in ((3.0, 1.0, 0.4), (5.0, 2.0, 0.8, 0.1))],
        {
            "The last step, to the lowest level, is missing: N levels have N - 1 steps between them.": {"- 1": "- 2"},
            "That is a single step over the whole range. Take the levels of the grid one after the other.":
                {"len(sigmas) - 1": "1", "sigmas[k + 1]": "sigmas[-1]"},
            "Every step must start where the one before it ended.": {"x = step": "end = step", "return x": "return end"},
        },
    ),
    Exercise(
        order,
        (
            "A power law is a straight line where both axes are logarithmic; p is its slope.",
            "Divide the law at one entry by the law at the entry before: c is gone. Take logarithms. The steps need not "
            "halve.",
        ),
        lambda: [
            (h, 2 * h**p + 0.1 * h ** (p + 1))
            for h, p in ((torch.tensor([0.5, 0.2, 0.15, 0.01], dtype=torch.float64), 1), (torch.tensor([3.0, 1.0, 0.2]), 2))
        ],
        {
            "That is right where each step is half of the one before. Divide by what the steps really did.":
                {"(errors[1:] / errors[:-1]).log()": "(errors[:-1] / errors[1:]).log2()", " / (steps[1:] / steps[:-1]).log()": ""},
            "The fraction is upside down: how fast do the errors fall, per fall of the step?":
                {"errors[1:] / errors[:-1]": "steps[1:] / steps[:-1]", "steps[1:] / steps[:-1]": "errors[1:] / errors[:-1]"},
            "Take the logarithm of the steps too: error = c h^p is a straight line in log against log.":
                {"(errors[1:] / errors[:-1]).log()": "errors.log().diff()", "(steps[1:] / steps[:-1]).log()": "steps.diff()"},
        },
    ),
)  # fmt: skip

QUIZ = (
    Question("A consistency model has a CD loss of exactly 0 on a grid of 10 levels. What is it?", "b", {
        "a": ("the exact consistency function", "The table of section 2 shows the error of such a model."),
        "b": ("the solver, applied step by step on this grid", "Yes: with the boundary condition, zero loss leaves nothing else."),
        "c": ("a constant", "A constant breaks the boundary condition f(x, eps) = x."),
    }),
    Question("Heun's step has a local error of order 3. Why is the model's error of order 2?", "a", {
        "a": ("The number of steps grows like 1 / step.", "Yes: N - 1 errors of size h^3 add up to h^2."),
        "b": ("Training is never perfect.", "Nothing was trained here."),
        "c": ("The last step is Euler's.", "The grid ends above 0, and every step of it is Heun's."),
    }),
    Question("You distil with N = 1280 instead of 160 and the error of your network stays. What does the theorem say?", "c", {
        "a": ("It is violated.", "It speaks about models of zero loss. A trained one has some loss left."),
        "b": ("Use a solver of higher order.", "The solver's error is already far below the floor of the network."),
        "c": ("Nothing: its premise, zero loss, does not hold.", "Yes. Below the floor the network's own error decides."),
    }),
)  # fmt: skip
