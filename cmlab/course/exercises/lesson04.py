"""Exercises and quiz of lesson 04."""

import torch

from .base import Exercise, Question, blob, normal


def heun_bridge(denoise, x, sigma, sigma_next):
    slope = (x - denoise(x, sigma)) / sigma[:, None]
    x_euler = x + (sigma_next - sigma)[:, None] * slope
    slope_next = (x_euler - denoise(x_euler, sigma_next)) / sigma_next[:, None]
    return x + (sigma_next - sigma)[:, None] * (slope + slope_next) / 2


def cd_loss(f, target, bridge, x0, eps, sigma, sigma_next):
    x = x0 + sigma[:, None] * eps
    x_next = bridge(x, sigma, sigma_next)
    with torch.no_grad():
        goal = target(x_next, sigma_next)
    return (f(x, sigma) - goal).square().sum(1) / (sigma - sigma_next)


def pd_target(x, x_end, sigma, sigma_end):
    ratio = sigma_end / sigma
    return (x_end - ratio * x) / (1 - ratio)


def _levels(low, high):
    return torch.linspace(low, high, 4, dtype=torch.float64)


def _f(x, sigma):
    """Some model that is not consistent."""
    return x / (1 + sigma[:, None])


def _bridge(x, sigma, sigma_next):
    """Some solver step."""
    return x * (sigma_next / sigma)[:, None] + 0.1


EXERCISES = (
    Exercise(
        heun_bridge,
        "The slope at (x, sigma) is (x - D) / sigma. Make Euler's step, take the slope at its end with sigma_next, and step "
        "again from x with the mean of the two slopes.",
        lambda: [(blob(), normal(4, 2), _levels(1.0, 3.0), _levels(0.5, 1.0))],
        {
            "That is Euler's step. Heun goes there, looks at the slope again, and takes the mean of the two.":
                {"(slope + slope_next) / 2": "slope"},
            "x_euler has the level sigma_next: tell the denoiser so, and divide by it.":
                {"x_euler, sigma_next": "x_euler, sigma", "/ sigma_next": "/ sigma"},
            "Heun takes the mean of the two slopes, not their sum.": {" / 2": ""},
        },
    ),
    Exercise(
        cd_loss,
        "Four lines: x = x0 + sigma eps; x_next from the bridge; the target's answer for x_next at sigma_next, without gradient; "
        "the squared distance of f(x, sigma) to it, over sigma - sigma_next. Levels have shape (B,): write sigma[:, None].",
        lambda: [(_f, _f, _bridge, normal(4, 2), normal(2, 4).T, _levels(1.0, 3.0), _levels(0.5, 1.0))],
        {
            "x_next is less noisy than x: the target must be told sigma_next.": {"x_next, sigma_next": "x_next, sigma"},
            "The weight 1 / (sigma - sigma_next) is missing.": {" / (sigma - sigma_next)": ""},
            "You used the clean data once more: that is consistency training. Here bridge leads to x_next.":
                {"bridge(x, sigma, sigma_next)": "x0 + sigma_next[:, None] * eps"},
        },
    ),
    Exercise(
        pd_target,
        "One Euler step is x_end = x0_hat + r (x - x0_hat), with r the ratio of the two levels. Solve for x0_hat.",
        lambda: [(normal(4, 2), normal(2, 4).T, torch.tensor(2.0), torch.tensor(0.5))],
        {
            "x_end is where the step must land; Euler's step goes only a part of the way to x0_hat.":
                {"(x_end - ratio * x) / (1 - ratio)": "x_end"},
            "x0_hat has the factor 1 - sigma_end / sigma in front of it: divide.": {" / (1 - ratio)": ""},
        },
    ),
)  # fmt: skip

QUIZ = (
    Question("A student has zero consistency loss on N levels. Where does its one step end?", "b", {
        "a": ("where the teacher's exact ODE ends", "Only as far as the solver's N - 1 steps are exact."),
        "b": ("where N - 1 steps of the solver end", "Yes. Theorem 1 (notebook 05) says how far that is from the exact end."),
        "c": ("at the data point that was used", "Data points only give the places x at which the loss is taken."),
    }),
    Question("What is the target network for?", "c", {
        "a": ("It is the diffusion model that is distilled.", "That is the teacher, which makes the step x -> x_next."),
        "b": ("One samples from it.", "One samples from another average of the weights, with a decay of its own."),
        "c": ("It answers for x_next, without a gradient.", "Yes; with mu = 0 it is the online network itself."),
    }),
    Question("What does progressive distillation need that consistency distillation does not?", "a", {
        "a": ("stages: each student becomes the next teacher", "Yes, and each stage adds its own error."),
        "b": ("samples drawn from the teacher beforehand", "Neither does; both add noise to data."),
        "c": ("a teacher", "Both have one."),
    }),
)  # fmt: skip
