"""Exercises and quiz of lesson 07: reference answers, typical mistakes, hints."""

import torch

from .base import Exercise, Question, normal

# Untyped on purpose: their source is shown to the reader and pasted into a notebook that has imported torch alone.


def _partner(x, x0, sigma, sigma_next):
    return x0 + sigma_next / sigma * (x - x0)


def _partner_with_new_noise(x, x0, sigma, sigma_next):
    return x + (sigma - sigma_next) / sigma * (x - x0)


def _partner_shrunk(x, x0, sigma, sigma_next):
    return sigma_next / sigma * x


def _partner_by_ratio_of_squares(x, x0, sigma, sigma_next):
    return x0 + sigma_next**2 / sigma**2 * (x - x0)


def _bias_and_noise(gradients, truth):
    bias = (gradients.mean(0) - truth).norm()
    noise = (gradients - gradients.mean(0)).square().sum(1).mean().sqrt()
    return torch.stack([bias, noise]) / truth.norm()


def _bias_and_noise_about_the_truth(gradients, truth):
    bias = (gradients.mean(0) - truth).norm()
    noise = (gradients - truth).square().sum(1).mean().sqrt()
    return torch.stack([bias, noise]) / truth.norm()


def _bias_and_noise_mean_of_norms(gradients, truth):
    bias = (gradients - truth).norm(dim=1).mean()
    noise = (gradients - gradients.mean(0)).square().sum(1).mean().sqrt()
    return torch.stack([bias, noise]) / truth.norm()


def _bias_and_noise_absolute(gradients, truth):
    bias = (gradients.mean(0) - truth).norm()
    noise = (gradients - gradients.mean(0)).square().sum(1).mean().sqrt()
    return torch.stack([bias, noise])


EXERCISES: dict[str, Exercise] = {
    "partner": Exercise(
        _partner,
        {
            _partner_with_new_noise: "The sign of the step is turned: at sigma_next the point lies nearer to x0, not further away.",
            _partner_shrunk: "Only the noise shrinks; x0 stays what it is.",
            _partner_by_ratio_of_squares: "sigma multiplies the noise once: the ratio of the levels, not of their squares.",
        },
        "CT's two points share z. Get z from x and x0 at level sigma, then build the point of level sigma_next with it.",
        lambda: [(normal(6, 2), normal(2, 6).T, *torch.tensor(s, dtype=torch.float64)) for s in ((2.0, 1.5), (0.4, 0.1))],
    ),
    "bias_and_noise": Exercise(
        _bias_and_noise,
        {
            _bias_and_noise_about_the_truth: "Noise is the spread about the estimates' own mean. About the truth, it "
                                             "contains the bias.",
            _bias_and_noise_mean_of_norms: "Average first, then take the length: the mean of lengths never averages the noise out.",
            _bias_and_noise_absolute: "Both are wanted in units of the true gradient's length.",
        },
        "Bias: how far the mean of the rows is from the truth. Noise: root of the mean squared distance of the rows "
        "from their mean.",
        lambda: [(3 * normal(20, 3) + 1, torch.tensor(t, dtype=torch.float64)) for t in ((1.0, 2.0, -2.0), (0.5, 0.0, 4.0))],
    ),
}  # fmt: skip

QUIZ: tuple[Question, ...] = (
    Question(
        "Target = the network itself, squared distance, N growing. What do the values of L_CD and L_CT do?",
        {
            "a": ("They become equal.", "Both tend to 0, at the same rate, and their ratio keeps away from 1."),
            "b": ("Both vanish; their ratio tends to a number above 1.", "Yes: the gradients agree in the limit, the "
                  "values do not."),
            "c": ("L_CT stays, L_CD vanishes.", "The table has both falling like the step squared."),
        },
        "b",
    ),
    Question(
        "In units of the true gradient, what does the noise of one CT sample do as N grows?",
        {
            "a": ("It grows without end.", "It levels off. What can grow is noise against the biased mean of a coarse grid."),
            "b": ("It levels off.", "Yes: see the table of section 7. The bias is what goes on falling."),
            "c": ("It vanishes like 1/N.", "That is the bias."),
        },
        "b",
    ),
    Question(
        "Why does bias at N = 8 hurt a trained model more than an untrained one?",
        {
            "a": ("The true gradient is smaller, the bias is not.", "Yes: in units of what is left to learn the bias grows."),
            "b": ("Trained networks are less smooth.", "Not needed for it: the three weights of section 6 show the same."),
            "c": ("It does not.", "Compare the columns of cosines in section 7."),
        },
        "a",
    ),
)  # fmt: skip
