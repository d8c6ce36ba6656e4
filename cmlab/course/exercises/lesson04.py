"""Exercises and quiz of lesson 04."""

import torch

from .base import Exercise, Question, Weighted, blob, normal


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


def _model(power, weight):
    """Some model that is not consistent, with one weight."""
    return Weighted(lambda w, x, sigma: w * x.sign() * x.abs() ** power / (1 + sigma[:, None]), weight)


def _bridge(x, sigma, sigma_next):
    """Some solver step."""
    return x * (sigma_next / sigma)[:, None] + 0.1


EXERCISES = (
    Exercise(
        heun_bridge,
        (
            "Two looks at the slope: one at the start, one where Euler would end.",
            "The slope needs the denoised point and the level of the point at which you are. The level changes with "
            "x_euler. The last line then averages.",
        ),
        lambda: [(blob(), normal(4, 2), high, high / 2) for high in (_levels(1.0, 3.0), _levels(0.2, 0.8))],
        {
            "That is Euler's step. Heun goes there, looks at the slope again, and takes the mean of the two.":
                {"(slope + slope_next) / 2": "slope"},
            "x_euler has the level sigma_next: tell the denoiser so, and divide by it.":
                {"x_euler, sigma_next": "x_euler, sigma", "/ sigma_next": "/ sigma"},
            "Heun takes the mean of the two slopes, not their sum.": {" / 2": ""},
            "The sign of the slope is turned: with falling sigma the point must move towards D.":
                {"x - denoise(x, sigma)": "denoise(x, sigma) - x",
                 "x_euler - denoise(x_euler, sigma_next)": "denoise(x_euler, sigma_next) - x_euler"},
        },
        calls={"denoise": 2},
    ),
    Exercise(
        cd_loss,
        (
            "Two points on one path, one answer for each. Who answers for which, and who learns?",
            "The less noisy point comes from bridge. target answers for it and is a constant to the optimizer; f answers "
            "for the noisier one and gets the gradient. The weight is one over the step.",
        ),
        lambda: [
            (_model(1, 0.8), _model(2, 1.3), _bridge, normal(4, 2), normal(2, 4).T, high, low)
            for high, low in ((_levels(1.0, 3.0), _levels(0.5, 1.0)), (_levels(9.0, 4.0), _levels(8.0, 1.0)))
        ],
        {
            "x_next is less noisy than x: the target must be told sigma_next.": {"x_next, sigma_next": "x_next, sigma"},
            "The weight 1 / (sigma - sigma_next) is missing.": {" / (sigma - sigma_next)": ""},
            "You used the clean data once more: that is consistency training. Here bridge leads to x_next.":
                {"bridge(x, sigma, sigma_next)": "x0 + sigma_next[:, None] * eps"},
            "The two models are not the same: target answers for x_next, f for x.":
                {"target(x_next": "f(x_next"},
            "The roles are turned round: f answers for the noisier point and learns, target for the other.":
                {"target(x_next": "f(x_next", "f(x, sigma) -": "target(x, sigma) -"},
            "A squared distance is a sum over the coordinates, not their mean.": {"sum(1)": "mean(1)"},
        },
        trains=("f",),
        frozen=("target",),
    ),
    Exercise(
        pd_target,
        (
            "Write down one Euler step with an unknown x0_hat, and where it must end.",
            "Euler's step moves x on the straight line to x0_hat; what is left of the distance is the ratio of the two "
            "levels. That is an equation of first degree in x0_hat.",
        ),
        lambda: [(normal(4, 2), normal(2, 4).T, torch.tensor(2.0), torch.tensor(s)) for s in (0.5, 1.6)],
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
