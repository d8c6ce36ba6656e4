"""Exercises and quiz of lesson 02."""

import torch

from .base import Exercise, Question, normal


def network_target(x0, x, sigma, sigma_data):
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    c_out = sigma * sigma_data / (sigma**2 + sigma_data**2) ** 0.5
    return (x0 - c_skip * x) / c_out


def edm_weight(sigma, sigma_data):
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def churned(x, sigma, churn, steps, z):
    gamma = min(churn / steps, 2**0.5 - 1)
    raised = sigma * (1 + gamma)
    return x + (raised**2 - sigma**2) ** 0.5 * z


EXERCISES = (
    Exercise(
        network_target,
        (
            "Set D = x0 in D = c_skip x + c_out F.",
            "It is an equation of first degree in F. c_skip and c_out are in the line above the cell.",
        ),
        lambda: [(normal(5, 2), normal(2, 5).T, torch.tensor(s, dtype=torch.float64), 0.5) for s in (0.1, 2.0)],
        {
            "You subtracted x itself, as VP and VE do (c_skip = 1). EDM's c_skip falls.": {"c_skip * x": "x"},
            "c_out lacks its square root, as in the lecture's get_scalings: ** 0.5 is missing.": {" ** 0.5": ""},
        },
    ),
    Exercise(
        edm_weight,
        (
            "Write the loss as lambda c_out^2 |F - F_target|^2. When does each level count the same?",
            "What stands in front of |F - F_target|^2 must be 1 at every level. c_out is in the text above.",
        ),
        lambda: [(torch.tensor([s], dtype=torch.float64), sd) for s, sd in ((0.01, 0.5), (0.3, 0.5), (1.0, 2.0), (50.0, 0.5))],
        {
            "1 / sigma^2 is the weight of VP, VE and iDDPM, whose c_out is sigma. EDM's c_out is smaller.":
                {"(sigma**2 + sigma_data**2)": "1", "(sigma * sigma_data)": "sigma"},
            "That is 1 / c_out. The loss is a square, so is its weight.":
                {"+ sigma_data**2)": "+ sigma_data**2) ** 0.5", " ** 2": ""},
        },
    ),
    Exercise(
        churned,
        (
            "Find the raised level first; then ask how much noise is missing.",
            "gamma has an upper bound, stated above. Variances of independent noises add: the variance that is missing is a "
            "difference of two squares.",
        ),
        lambda: [(normal(5, 2), torch.tensor(1.5, dtype=torch.float64), churn, 20, normal(2, 5).T) for churn in (4.0, 40.0)],
        {
            "Variances of independent noise add, not standard deviations: sqrt(raised^2 - sigma^2).":
                {"(raised**2 - sigma**2) ** 0.5": "(raised - sigma)"},
            "gamma is at most sqrt(2) - 1: EDM never adds more noise than there is already.":
                {"min(churn / steps, 2**0.5 - 1)": "churn / steps"},
        },
    ),
)  # fmt: skip

QUIZ = (
    Question("What does c_in do?", "a", {
        "a": ("It gives the network inputs of one size at every noise level.", "Yes: divide by the standard deviation of x."),
        "b": ("It removes the noise from the input.", "It scales signal and noise alike; nothing is removed."),
        "c": ("It tells the network the noise level.", "That is c_noise."),
    }),
    Question("Why is c_out = sigma (VP, VE) a bad idea at large noise?", "c", {
        "a": ("The network's target becomes huge.", "It has size 1: the target is eps itself."),
        "b": ("The weight of the loss becomes huge.", "It is 1 / sigma^2, which is small."),
        "c": ("The network's error is multiplied by sigma.", "Yes: at sigma = 80 an error of 1 % moves D by 0.8."),
    }),
    Question("What changes in the network when you change the sampler's time steps?", "a", {
        "a": ("nothing", "Yes: sampling and training are separate choices. That is the point of the design space."),
        "b": ("its preconditioning", "That was fixed at training time."),
        "c": ("its noise density", "That decides what training visits; sampling is free to go elsewhere."),
    }),
)  # fmt: skip
