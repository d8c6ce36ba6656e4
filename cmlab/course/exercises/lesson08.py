"""Exercises and quiz of lesson 08."""

import torch

from .base import Exercise, Question, normal


def levels_at(progress, s0, s1):
    root = (progress * ((s1 + 1) ** 2 - s0**2) + s0**2) ** 0.5
    return int((torch.tensor(root, dtype=torch.float64) - 1).ceil()) + 1


def decay_at(n, s0, mu0):
    return mu0 ** (s0 / n)


def lower(sigma, stage, q):
    n = 1 + 8 * torch.sigmoid(-sigma)
    return sigma * (1 - n / q ** (stage + 1)).clamp(0, 1)


EXERCISES = (
    Exercise(
        levels_at,
        (
            "Read the formula from the inside: a root, then a bracket that rounds.",
            "The bracket is open at the bottom: it is a ceiling. It counts intervals, N counts levels. The root goes from "
            "s0 to s1 + 1.",
        ),
        lambda: [(p, s0, s1) for s0, s1 in ((2, 150), (2, 200)) for p in (1.0, 0.05, 0.333, 0.5)],
        {
            "The brackets in the formula round up (a ceiling), yours rounds down.": {"ceil": "floor"},
            "The + 1 after the bracket is missing: N counts levels, not the gaps between them.": {".ceil()) + 1": ".ceil())"},
            "Without the square root N would grow evenly; the paper lets it grow fast at first.":
                {"(progress * ((s1 + 1) ** 2 - s0**2) + s0**2) ** 0.5": "progress * (s1 + 1 - s0) + s0"},
        },
    ),
    Exercise(
        decay_at,
        (
            "The formula keeps one thing fixed: how much is forgotten per pass through N levels.",
            "An exponential of a logarithm is a power. With N = s0 the answer is mu0 itself.",
        ),
        lambda: [(n, 2, 0.9) for n in (2, 16, 151)],
        {
            "Both official codes divide by N - 1; the paper by N. Here the paper's.": {"/ n": "/ (n - 1)"},
            "mu must change along with N.": {" ** (s0 / n)": ""},
            "The exponent is upside down: with more levels mu must come closer to 1.": {"s0 / n": "n / s0"},
        },
    ),
    Exercise(
        lower,
        (
            "Two steps: how much of sigma is taken away, and then the lower level.",
            "n(sigma) grows where sigma falls, from 1 to 5: a sigmoid turned round. The share that goes is n over a power "
            "of q, and it starts with the first power. No level is below 0.",
        ),
        lambda: [(normal(9).abs() * 3, stage, q) for stage, q in ((3, 2.0), (0, 2.0), (1, 4.0))],
        {
            "At the first stages the bracket becomes negative: clamp it at 0, the lower level is then the data.":
                {".clamp(0, 1)": ""},
            "The exponent is stage + 1: at stage 0 one q already divides.": {"(stage + 1)": "stage"},
            "The sigmoid falls with sigma: n is 5 at sigma = 0 and 1 at large sigma.": {"-sigma": "sigma"},
        },
    ),
)  # fmt: skip

QUIZ = (
    Question("Why does N start small and grow?", "a", {
        "a": ("Large steps: quick but biased; small steps: little bias, slow", "Yes: first the rough shape, then the truth."),
        "b": ("A large N needs more memory", "N decides which pairs are drawn, not how many."),
        "c": ("Only the last N matters", "It decides the bias that is left; how one gets there matters too, see section 7."),
    }),
    Question("What does mu = 0 mean?", "b", {
        "a": ("no target network at all: the loss has one call", "The target is still called, behind a stop-gradient."),
        "b": ("the target is the online network itself, behind a stop-gradient", "Yes; it is iCT's and ECT's choice."),
        "c": ("the target never changes", "That is mu = 1."),
    }),
    Question("Which of these does ECT not share with iCT?", "b", {
        "a": ("the same noise for both points of a pair", "Both bridge by the same noise: that is what makes them CT."),
        "b": ("a grid of levels", "Yes: ECT's pairs are continuous; q, the stage and sigma give the lower level."),
        "c": ("the weight 1 / (t - r)", "Both use it."),
    }),
)  # fmt: skip
