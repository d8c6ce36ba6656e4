"""Exercises and quiz of lesson 08: reference answers, typical mistakes, hints."""

import torch

from .base import Exercise, Question, normal

# Untyped on purpose: their source is shown to the reader and pasted into a notebook that has imported torch alone.


def _levels_at(progress, s0, s1):
    root = (progress * ((s1 + 1) ** 2 - s0**2) + s0**2) ** 0.5
    return int((torch.tensor(root, dtype=torch.float64) - 1).ceil()) + 1


def _levels_at_floor(progress, s0, s1):
    root = (progress * ((s1 + 1) ** 2 - s0**2) + s0**2) ** 0.5
    return int(root - 1) + 1


def _levels_at_intervals(progress, s0, s1):
    root = (progress * ((s1 + 1) ** 2 - s0**2) + s0**2) ** 0.5
    return int((torch.tensor(root, dtype=torch.float64) - 1).ceil())


def _levels_at_linear(progress, s0, s1):
    return int(torch.tensor(progress * (s1 + 1 - s0) + s0 - 1, dtype=torch.float64).ceil()) + 1


def _decay_at(n, s0, mu0):
    return mu0 ** (s0 / n)


def _decay_at_code(n, s0, mu0):
    return mu0 ** (s0 / (n - 1))


def _decay_at_fixed(n, s0, mu0):
    return mu0


def _decay_at_inverse(n, s0, mu0):
    return mu0 ** (n / s0)


def _lower(sigma, stage, q):
    n = 1 + 8 * torch.sigmoid(-sigma)
    return sigma * (1 - n / q ** (stage + 1)).clamp(0, 1)


def _lower_unclamped(sigma, stage, q):
    n = 1 + 8 * torch.sigmoid(-sigma)
    return sigma * (1 - n / q ** (stage + 1))


def _lower_stage_late(sigma, stage, q):
    n = 1 + 8 * torch.sigmoid(-sigma)
    return sigma * (1 - n / q**stage).clamp(0, 1)


def _lower_turned(sigma, stage, q):
    n = 1 + 8 * torch.sigmoid(sigma)
    return sigma * (1 - n / q ** (stage + 1)).clamp(0, 1)


EXERCISES: dict[str, Exercise] = {
    "levels_at": Exercise(
        _levels_at,
        {
            _levels_at_floor: "The brackets in the formula round up (a ceiling), yours rounds down.",
            _levels_at_intervals: "The + 1 after the bracket is missing: N counts levels, not the gaps between them.",
            _levels_at_linear: "Without the square root N would grow evenly; the paper lets it grow fast at first.",
        },
        "root = sqrt(progress ((s1 + 1)^2 - s0^2) + s0^2); then round root - 1 up (math.ceil) and add 1.",
        lambda: [(p, s0, s1) for s0, s1 in ((2, 150), (2, 200)) for p in (1.0, 0.05, 0.333, 0.5)],
    ),
    "decay_at": Exercise(
        _decay_at,
        {
            _decay_at_code: "Both official codes divide by N - 1; the paper by N. Here the paper's.",
            _decay_at_fixed: "mu must change along with N.",
            _decay_at_inverse: "The exponent is upside down: with more levels mu must come closer to 1.",
        },
        "exp(s0 ln(mu0) / N), which is mu0 to the power s0 / N.",
        lambda: [(n, 2, 0.9) for n in (2, 16, 151)],
    ),
    "lower": Exercise(
        _lower,
        {
            _lower_unclamped: "At the first stages the bracket becomes negative: clamp it at 0, the lower level is then the data.",
            _lower_stage_late: "The exponent is stage + 1: at stage 0 one q already divides.",
            _lower_turned: "The sigmoid falls with sigma: n is 5 at sigma = 0 and 1 at large sigma.",
        },
        "n = 1 + 8 torch.sigmoid(-sigma); sigma times (1 - n / q ** (stage + 1)), the bracket clamped to [0, 1].",
        lambda: [(normal(9).abs() * 3, stage, q) for stage, q in ((3, 2.0), (0, 2.0), (1, 4.0))],
    ),
}  # fmt: skip

QUIZ: tuple[Question, ...] = (
    Question(
        "Why does N start small and grow?",
        {
            "a": ("Large steps: quick but biased; small steps: little bias, slow", "Yes: first the rough shape, then the truth."),
            "b": ("A large N needs more memory", "N decides which pairs are drawn, not how many."),
            "c": ("Only the last N matters", "It decides the bias that is left; how one gets there matters too, see section 7."),
        },
        "a",
    ),
    Question(
        "What does mu = 0 mean?",
        {
            "a": ("no target network at all: the loss has one call", "The target is still called, behind a stop-gradient."),
            "b": ("the target is the online network itself, behind a stop-gradient", "Yes; it is iCT's and ECT's choice."),
            "c": ("the target never changes", "That is mu = 1."),
        },
        "b",
    ),
    Question(
        "Which of these does ECT not share with iCT?",
        {
            "a": ("the same noise for both points of a pair", "Both bridge by the same noise: that is what makes them CT."),
            "b": ("a grid of levels", "Yes: ECT's pairs are continuous; q, the stage and sigma give the lower level."),
            "c": ("the weight 1 / (t - r)", "Both use it."),
        },
        "b",
    ),
)  # fmt: skip
