"""Exercises and quiz of lesson 11: reference answers, typical mistakes, hints."""

import torch

from .base import Exercise, Question, normal

# Untyped on purpose: their source is shown to the reader and pasted into a notebook that has imported torch alone.


def _rate_along(f, x, t, v):
    return torch.func.jvp(f, (x, t), (v, torch.ones_like(t)))[1]


def _rate_along_still(f, x, t, v):
    return torch.func.jvp(f, (x, t), (v, torch.zeros_like(t)))[1]


def _rate_along_time(f, x, t, v):
    return torch.func.jvp(f, (x, t), (torch.zeros_like(x), torch.ones_like(t)))[1]


def _rate_along_value(f, x, t, v):
    return torch.func.jvp(f, (x, t), (v, torch.ones_like(t)))[0]


def _trig_denoise(F, x, t, sd):
    return torch.cos(t) * x - torch.sin(t) * sd * F(x / sd, t)


def _trig_denoise_plus(F, x, t, sd):
    return torch.cos(t) * x + torch.sin(t) * sd * F(x / sd, t)


def _trig_denoise_unscaled(F, x, t, sd):
    return torch.cos(t) * x - torch.sin(t) * F(x / sd, t)


def _trig_denoise_raw(F, x, t, sd):
    return torch.cos(t) * x - torch.sin(t) * sd * F(x, t)


def _trig_denoise_turned(F, x, t, sd):
    return torch.sin(t) * x - torch.cos(t) * sd * F(x / sd, t)


EXERCISES: dict[str, Exercise] = {
    "rate_along": Exercise(
        _rate_along,
        {
            _rate_along_still: "Time stands still in yours: along the path t changes too, by 1 per unit of t.",
            _rate_along_time: "x stands still in yours: along the path it moves with velocity v.",
            _rate_along_value: "jvp returns the pair (value, derivative): take the second.",
        },
        "torch.func.jvp(f, (x, t), (tangent of x, tangent of t)): x changes by v, t by torch.ones_like(t).",
        lambda: [
            (lambda x, t: torch.tanh(x) / (0.25 + t**2), normal(4, 2), torch.tensor(s, dtype=torch.float64), normal(2, 4).T)
            for s in (0.3, 1.5)
        ],
    ),
    "trig_denoise": Exercise(
        _trig_denoise,
        {
            _trig_denoise_plus: "The sign of F is EDM's; TrigFlow subtracts.",
            _trig_denoise_unscaled: "F has unit size: multiply it by sd.",
            _trig_denoise_raw: "The network sees x / sd, which has unit size at every t.",
            _trig_denoise_turned: "cos and sin are swapped: at t = 0 the answer must be x itself.",
        },
        "cos(t) x - sin(t) sd F(x / sd, t).",
        lambda: [
            (lambda x, t: torch.tanh(x) * (1 + t), normal(5, 2), torch.tensor(s, dtype=torch.float64), sd)
            for s, sd in ((0.0, 0.5), (0.4, 0.5), (1.3, 2.0))
        ],
    ),
}  # fmt: skip

QUIZ: tuple[Question, ...] = (
    Question(
        "What does df/dt along the PF-ODE have to be for a perfect consistency function?",
        {
            "a": ("0", "Yes: f does not change along a path. That is self-consistency, differentiated."),
            "b": ("1", "That is the tangent of t, not of f."),
            "c": ("the velocity of the path", "That moves x, while f(x, t) stays at the end of the path."),
        },
        "a",
    ),
    Question(
        "Why is the VALUE of the continuous-time loss with stop-gradient no measure of quality?",
        {
            "a": ("it is computed in float32", "In float64 it says as little."),
            "b": ("only its gradient is that of the limit", "Yes: judge such a training by its samples."),
            "c": ("it is always 0", "It is not; it may even be negative with learned weights."),
        },
        "b",
    ),
    Question(
        "What changes when an EDM network is used in TrigFlow?",
        {
            "a": ("nothing but names of coordinates and a sign", "Yes: section 4 shows it to rounding."),
            "b": ("the noise that was added during training", "cos and sin only rescale x0 + sigma eps."),
            "c": ("it must be trained again", "Section 4 uses the weights as they are."),
        },
        "a",
    ),
)  # fmt: skip
