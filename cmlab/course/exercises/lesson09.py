"""Exercises and quiz of lesson 09: reference answers, typical mistakes, hints."""

import torch

from .base import Exercise, Question, blob, normal

# Untyped on purpose: their source is shown to the reader and pasted into a notebook that has imported torch alone.


def _algorithm_1(f, x_T, taus, z, eps):
    x = f(x_T, torch.tensor(80.0))
    for k, tau in enumerate(taus):
        x = x + (tau**2 - eps**2) ** 0.5 * z[k]
        x = f(x, torch.tensor(tau))
    return x


def _algorithm_1_full_noise(f, x_T, taus, z, eps):
    x = f(x_T, torch.tensor(80.0))
    for k, tau in enumerate(taus):
        x = f(x + tau * z[k], torch.tensor(tau))
    return x


def _algorithm_1_difference(f, x_T, taus, z, eps):
    x = f(x_T, torch.tensor(80.0))
    for k, tau in enumerate(taus):
        x = f(x + (tau - eps) * z[k], torch.tensor(tau))
    return x


def _algorithm_1_no_restart(f, x_T, taus, z, eps):
    x = f(x_T, torch.tensor(80.0))
    for tau in taus:
        x = f(x, torch.tensor(tau))
    return x


def _algorithm_1_wrong_level(f, x_T, taus, z, eps):
    x = f(x_T, torch.tensor(80.0))
    for k, tau in enumerate(taus):
        x = f(x + (tau**2 - eps**2) ** 0.5 * z[k], torch.tensor(80.0))
    return x


def _ternary(score, low, high):
    while high - low > 2:
        left, right = low + (high - low) // 3, high - (high - low) // 3
        if score(left) < score(right):
            high = right
        else:
            low = left
    return min(range(low, high + 1), key=score)


def _ternary_uphill(score, low, high):
    while high - low > 2:
        left, right = low + (high - low) // 3, high - (high - low) // 3
        if score(left) < score(right):
            low = left
        else:
            high = right
    return min(range(low, high + 1), key=score)


def _ternary_to_the_point(score, low, high):
    while high - low > 2:
        left, right = low + (high - low) // 3, high - (high - low) // 3
        if score(left) < score(right):
            high = left
        else:
            low = right
    return min(range(low, high + 1), key=score)


def _ternary_last_pair(score, low, high):
    left, right = low, high
    while high - low > 2:
        left, right = low + (high - low) // 3, high - (high - low) // 3
        if score(left) < score(right):
            high = right
        else:
            low = left
    return left if score(left) < score(right) else right


EXERCISES: dict[str, Exercise] = {
    "algorithm_1": Exercise(
        _algorithm_1,
        {
            _algorithm_1_full_noise: "The sample already has noise of size eps: variances add, so only tau^2 - eps^2 is missing.",
            _algorithm_1_difference: "Standard deviations do not add, variances do.",
            _algorithm_1_no_restart: "f was told tau, but its input is clean: add the noise of that level first.",
            _algorithm_1_wrong_level: "After the first call the noise is of size tau: tell f that level, not 80.",
        },
        "Per tau: add sqrt(tau^2 - eps^2) times the noise to x, so that x lies at level tau, then call f with that tau.",
        lambda: [
            (lambda x, sigma: blob().consistency(x, sigma, sigma_min=0.3), 80 * normal(5, 2), taus, normal(2, 5, 2), 0.3)
            for taus in ([0.8, 0.5], [3.0])
        ],
    ),
    "ternary": Exercise(
        _ternary,
        {
            _ternary_uphill: "You keep the side with the higher score: lower is better.",
            _ternary_to_the_point: "Too much goes: if score(left) is lower, the valley may still lie between left and right.",
            _ternary_last_pair: "The last two probes are not the range: what is left between low and high must be compared.",
        },
        "If score(left) < score(right), the lowest point cannot lie above right: set high = right. Otherwise low = left.",
        lambda: [((lambda i, best=best: (i - best) ** 2), 0, 38) for best in (0, 5, 13, 20, 29, 38)],
    ),
}  # fmt: skip

QUIZ: tuple[Question, ...] = (
    Question(
        "Why does Algorithm 1 add noise of size sqrt(tau^2 - eps^2) and not tau?",
        {
            "a": ("f ends at level eps, so noise of size eps is already there", "Yes; variances add up to tau^2."),
            "b": ("to make the steps smaller", "The size of a step is chosen by tau itself."),
            "c": ("it is a misprint", "The formula is right; at eps = 0.002 you would just hardly see the difference."),
        },
        "a",
    ),
    Question(
        "What does a second step at a very small tau change?",
        {
            "a": ("It draws a new sample.", "That is what a very large tau does."),
            "b": ("nothing: a stray point stays where it is", "Yes: noise of size tau reaches no further than about tau."),
            "c": ("It averages over the data.", "That is what a denoiser D does at a large level, not f at a small one."),
        },
        "b",
    ),
    Question(
        "When may ternary search miss the best level?",
        {
            "a": ("when the scores have more than one valley", "Yes: section 6 shows it on another data set."),
            "b": ("when the grid has more than 40 levels", "More levels only make it take a few more comparisons."),
            "c": ("when every candidate sees the same noise", "The same noise for all makes the comparison fairer."),
        },
        "a",
    ),
)  # fmt: skip
