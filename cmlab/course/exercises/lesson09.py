"""Exercises and quiz of lesson 09."""

import torch

from .base import Exercise, Question, blob, normal


def algorithm_1(f, x_T, taus, z, eps):
    x = f(x_T, torch.tensor(80.0))
    for k, tau in enumerate(taus):
        x = x + (tau**2 - eps**2) ** 0.5 * z[k]
        x = f(x, torch.tensor(tau))
    return x


def ternary(score, low, high):
    while high - low > 2:
        left, right = low + (high - low) // 3, high - (high - low) // 3
        if score(left) < score(right):
            high = right
        else:
            low = left
    return min(range(low, high + 1), key=score)


EXERCISES = (
    Exercise(
        algorithm_1,
        (
            "Per tau: noise up, then f down. How much noise is missing?",
            "After f the sample has noise of size eps. Variances add up to tau squared. f must be told the level that its "
            "input has by then.",
        ),
        lambda: [
            (lambda x, sigma: blob().consistency(x, sigma, sigma_min=0.3), 80 * normal(5, 2), taus, normal(2, 5, 2), 0.3)
            for taus in ([0.8, 0.5], [3.0])
        ],
        {
            "The sample already has noise of size eps: variances add, so only tau^2 - eps^2 is missing.":
                {"(tau**2 - eps**2) ** 0.5": "tau"},
            "Standard deviations do not add, variances do.": {"(tau**2 - eps**2) ** 0.5": "(tau - eps)"},
            "f was told tau, but its input is clean: add the noise of that level first.":
                {" + (tau**2 - eps**2) ** 0.5 * z[k]": ""},
            "After the first call the noise is of size tau: tell f that level, not 80.": {"tensor(tau)": "tensor(80.0)"},
        },
    ),
    Exercise(
        ternary,
        (
            "Two probes. Which third can you throw away for certain?",
            "In one valley the function falls before the lowest point and rises after it. If the left probe is lower, the "
            "lowest point may be on either side of left, but not beyond right.",
        ),
        lambda: [
            *(((lambda i, best=best: (i - best) ** 2), 0, 38) for best in (0, 5, 13, 20, 29, 38)),
            ((lambda i: abs(i - 250)), 0, 380),  # a full sweep is right and too dear
        ],
        {
            "You keep the side with the higher score: lower is better.": {"<": ">="},
            "Too much goes: if score(left) is lower, the valley may still lie between left and right.":
                {"high = right": "high = left", "low = left": "low = right"},
            "The last two probes are not the range: what is left between low and high must be compared.":
                {"min(range(low, high + 1), key=score)": "left if score(left) < score(right) else right"},
        },
        calls={"score": 60},
    ),
)  # fmt: skip

QUIZ = (
    Question("Why does Algorithm 1 add noise of size sqrt(tau^2 - eps^2) and not tau?", "a", {
        "a": ("f ends at level eps, so noise of size eps is already there", "Yes; variances add up to tau^2."),
        "b": ("to make the steps smaller", "The size of a step is chosen by tau itself."),
        "c": ("it is a misprint", "The formula is right; at eps = 0.002 you would just hardly see the difference."),
    }),
    Question("What does a second step at a very small tau change?", "b", {
        "a": ("It draws a new sample.", "That is what a very large tau does."),
        "b": ("nothing: a stray point stays where it is", "Yes: noise of size tau reaches no further than about tau."),
        "c": ("It averages over the data.", "That is what a denoiser D does at a large level, not f at a small one."),
    }),
    Question("When may ternary search miss the best level?", "a", {
        "a": ("when the scores have more than one valley", "Yes: section 6 shows it on another data set."),
        "b": ("when the grid has more than 40 levels", "More levels only make it take a few more comparisons."),
        "c": ("when every candidate sees the same noise", "The same noise for all makes the comparison fairer."),
    }),
)  # fmt: skip
