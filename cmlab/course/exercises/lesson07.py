"""Exercises and quiz of lesson 07."""

import torch

from .base import Exercise, Question, normal


def partner(x, x0, sigma, sigma_next):
    return x0 + sigma_next / sigma * (x - x0)


def bias_and_noise(gradients, truth):
    bias = (gradients.mean(0) - truth).norm()
    noise = (gradients - gradients.mean(0)).square().sum(1).mean().sqrt()
    return torch.stack([bias, noise]) / truth.norm()


EXERCISES = (
    Exercise(
        partner,
        (
            "Both points belong to the same x0 and the same z. What is z here?",
            "The noise is x minus x0. Between the levels only its size changes, in proportion to the level.",
        ),
        lambda: [(normal(6, 2), normal(2, 6).T, *torch.tensor(s, dtype=torch.float64)) for s in ((2.0, 1.5), (0.4, 0.1))],
        {
            "The sign of the step is turned: at sigma_next the point lies nearer to x0, not further away.":
                {"x0 + sigma_next / sigma": "x + (sigma - sigma_next) / sigma"},
            "Only the noise shrinks; x0 stays what it is.": {"x0 + ": "", "(x - x0)": "x"},
            "sigma multiplies the noise once: the ratio of the levels, not of their squares.":
                {"sigma_next / sigma": "sigma_next**2 / sigma**2"},
        },
    ),
    Exercise(
        bias_and_noise,
        (
            "Bias is about the mean of the estimates, noise about their spread. Both are lengths of vectors.",
            "Average the rows and compare with the truth. Then measure the distances of the rows from their own mean: "
            "square, sum over weights, average over rows, root.",
        ),
        lambda: [(3 * normal(20, 3) + 1, torch.tensor(t, dtype=torch.float64)) for t in ((1.0, 2.0, -2.0), (0.5, 0.0, 4.0))],
        {
            "Noise is the spread about the estimates' own mean. About the truth, it contains the bias.":
                {"gradients - gradients.mean(0)": "gradients - truth"},
            "Average first, then take the length: the mean of lengths never averages the noise out.":
                {"(gradients.mean(0) - truth).norm()": "(gradients - truth).norm(dim=1).mean()"},
            "Both are wanted in units of the true gradient's length.": {" / truth.norm()": ""},
        },
        {
            "Your variance divides by B - 1, so that it is unbiased; the answer divides by B. For large B the two are one.":
                {"noise = (gradients - gradients.mean(0)).square().sum(1).mean().sqrt()": "noise = gradients.var(0).sum().sqrt()"},
        },
    ),
)  # fmt: skip

QUIZ = (
    Question("Target = the network itself, squared distance, N growing. What do the values of L_CD and L_CT do?", "b", {
        "a": ("They become equal.", "Both tend to 0, at the same rate, and their ratio keeps away from 1."),
        "b": ("Both vanish; their ratio tends to a number above 1.", "Yes: the gradients agree in the limit, the values do not."),
        "c": ("L_CT stays, L_CD vanishes.", "The table has both falling like the step squared."),
    }),
    Question("In units of the true gradient, what does the noise of one CT sample do as N grows?", "b", {
        "a": ("It grows without end.", "It levels off. What can grow is noise against the biased mean of a coarse grid."),
        "b": ("It levels off.", "Yes: see the table of section 7. The bias is what goes on falling."),
        "c": ("It vanishes like 1/N.", "That is the bias."),
    }),
    Question("Why does bias at N = 8 hurt a trained model more than an untrained one?", "a", {
        "a": ("The true gradient is smaller, the bias is not.", "Yes: in units of what is left to learn the bias grows."),
        "b": ("Trained networks are less smooth.", "Not needed for it: the three weights of section 6 show the same."),
        "c": ("It does not.", "Compare the columns of cosines in section 7."),
    }),
)  # fmt: skip
