"""Exercises and quiz of lesson 02: reference answers, typical mistakes, hints."""

import torch

from .base import Exercise, Question, normal

# Untyped on purpose: their source is shown to the reader and pasted into a notebook that has imported torch alone.


def _network_target(x0, x, sigma, sigma_data):
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    c_out = sigma * sigma_data / (sigma**2 + sigma_data**2) ** 0.5
    return (x0 - c_skip * x) / c_out


def _network_target_without_skip(x0, x, sigma, sigma_data):
    c_out = sigma * sigma_data / (sigma**2 + sigma_data**2) ** 0.5
    return (x0 - x) / c_out


def _network_target_without_root(x0, x, sigma, sigma_data):
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    c_out = sigma * sigma_data / (sigma**2 + sigma_data**2)
    return (x0 - c_skip * x) / c_out


def _edm_weight(sigma, sigma_data):
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def _edm_weight_of_eps(sigma, sigma_data):
    return 1 / sigma**2


def _edm_weight_root(sigma, sigma_data):
    return (sigma**2 + sigma_data**2) ** 0.5 / (sigma * sigma_data)


def _churned(x, sigma, churn, steps, z):
    gamma = min(churn / steps, 2**0.5 - 1)
    raised = sigma * (1 + gamma)
    return x + (raised**2 - sigma**2) ** 0.5 * z


def _churned_by_the_difference(x, sigma, churn, steps, z):
    gamma = min(churn / steps, 2**0.5 - 1)
    raised = sigma * (1 + gamma)
    return x + (raised - sigma) * z


def _churned_without_limit(x, sigma, churn, steps, z):
    raised = sigma * (1 + churn / steps)
    return x + (raised**2 - sigma**2) ** 0.5 * z


EXERCISES: dict[str, Exercise] = {
    "network_target": Exercise(
        _network_target,
        {
            _network_target_without_skip: "You subtracted x itself, as VP and VE do (c_skip = 1). EDM's c_skip falls.",
            _network_target_without_root: "c_out lacks its square root, as in the lecture's get_scalings: ** 0.5 is missing.",
        },
        "D = c_skip x + c_out F shall equal x0. Solve for F, with EDM's c_skip and c_out from the last column of the table.",
        lambda: [(normal(5, 2), normal(2, 5).T, torch.tensor(s, dtype=torch.float64), 0.5) for s in (0.1, 2.0)],
    ),
    "edm_weight": Exercise(
        _edm_weight,
        {
            _edm_weight_of_eps: "1 / sigma^2 is the weight of VP, VE and iDDPM, whose c_out is sigma. EDM's c_out is smaller.",
            _edm_weight_root: "That is 1 / c_out. The loss is a square, so is its weight.",
        },
        "The weight undoes what c_out does to a squared error: 1 / c_out^2.",
        lambda: [(torch.tensor([0.01, 0.3, 1.0, 50.0], dtype=torch.float64), 0.5)],
    ),
    "churned": Exercise(
        _churned,
        {
            _churned_by_the_difference: "Variances of independent noise add, not standard deviations: sqrt(raised^2 - sigma^2).",
            _churned_without_limit: "gamma is at most sqrt(2) - 1: EDM never adds more noise than there is already.",
        },
        "gamma = min(churn / steps, sqrt(2) - 1); raised = sigma (1 + gamma); add noise of variance raised^2 - sigma^2.",
        lambda: [(normal(5, 2), torch.tensor(1.5, dtype=torch.float64), churn, 20, normal(2, 5).T) for churn in (4.0, 40.0)],
    ),
}  # fmt: skip

QUIZ: tuple[Question, ...] = (
    Question(
        "What does c_in do?",
        {
            "a": ("It gives the network inputs of one size at every noise level.", "Yes: divide by the standard deviation of x."),
            "b": ("It removes the noise from the input.", "It scales signal and noise alike; nothing is removed."),
            "c": ("It tells the network the noise level.", "That is c_noise."),
        },
        "a",
    ),
    Question(
        "Why is c_out = sigma (VP, VE) a bad idea at large noise?",
        {
            "a": ("The network's target becomes huge.", "It has size 1: the target is eps itself."),
            "b": ("The weight of the loss becomes huge.", "It is 1 / sigma^2, which is small."),
            "c": ("The network's error is multiplied by sigma.", "Yes: at sigma = 80 an error of 1 % moves D by 0.8."),
        },
        "c",
    ),
    Question(
        "What changes in the network when you change the sampler's time steps?",
        {
            "a": ("nothing", "Yes: sampling and training are separate choices. That is the point of the design space."),
            "b": ("its preconditioning", "That was fixed at training time."),
            "c": ("its noise density", "That decides what training visits; sampling is free to go elsewhere."),
        },
        "a",
    ),
)  # fmt: skip
