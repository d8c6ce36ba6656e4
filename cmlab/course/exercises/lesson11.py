"""Exercises and quiz of lesson 11."""

import torch

from .base import Exercise, Question, normal


def rate_along(f, x, t, v):
    return torch.func.jvp(f, (x, t), (v, torch.ones_like(t)))[1]


def trig_denoise(F, x, t, sd):
    return torch.cos(t) * x - torch.sin(t) * sd * F(x / sd, t)


EXERCISES = (
    Exercise(
        rate_along,
        (
            "Two things move along the path: x and t. jvp takes a tangent for each.",
            "x moves with velocity v; t moves by 1 per unit of t, for each entry. jvp gives the value and the rate.",
        ),
        lambda: [
            (lambda x, t: torch.tanh(x) / (0.25 + t**2), normal(4, 2), torch.tensor(s, dtype=torch.float64), normal(2, 4).T)
            for s in (0.3, 1.5)
        ],
        {
            "Time stands still in yours: along the path t changes too, by 1 per unit of t.": {"ones_like": "zeros_like"},
            "x stands still in yours: along the path it moves with velocity v.": {"(v, ": "(torch.zeros_like(x), "},
            "jvp returns the pair (value, derivative): take the second.": {"[1]": "[0]"},
        },
    ),
    Exercise(
        trig_denoise,
        (
            "The formula stands above the cell. Which of its three parts has which size?",
            "F sees an input of size 1 and gives an output of size 1; x has size sd. At t = 0 the answer must be x itself, "
            "and F enters with a minus.",
        ),
        lambda: [
            (lambda x, t: torch.tanh(x) * (1 + t), normal(5, 2), torch.tensor(s, dtype=torch.float64), sd)
            for s, sd in ((0.0, 0.5), (0.4, 0.5), (1.3, 2.0))
        ],
        {
            "The sign of F is EDM's; TrigFlow subtracts.": {"x - ": "x + "},
            "F has unit size: multiply it by sd.": {" * sd": ""},
            "The network sees x / sd, which has unit size at every t.": {"x / sd": "x"},
            "cos and sin are swapped: at t = 0 the answer must be x itself.": {"cos": "sin", "sin": "cos"},
        },
    ),
)  # fmt: skip

QUIZ = (
    Question("What does df/dt along the PF-ODE have to be for a perfect consistency function?", "a", {
        "a": ("0", "Yes: f does not change along a path. That is self-consistency, differentiated."),
        "b": ("1", "That is the tangent of t, not of f."),
        "c": ("the velocity of the path", "That moves x, while f(x, t) stays at the end of the path."),
    }),
    Question("Why is the VALUE of the continuous-time loss with stop-gradient no measure of quality?", "b", {
        "a": ("it is computed in float32", "In float64 it says as little."),
        "b": ("only its gradient is that of the limit", "Yes: judge such a training by its samples."),
        "c": ("it is always 0", "It is not; it may even be negative with learned weights."),
    }),
    Question("What changes when an EDM network is used in TrigFlow?", "a", {
        "a": ("nothing but names of coordinates and a sign", "Yes: section 4 shows it to rounding."),
        "b": ("the noise that was added during training", "cos and sin only rescale x0 + sigma eps."),
        "c": ("it must be trained again", "Section 4 uses the weights as they are."),
    }),
)  # fmt: skip
