"""Exercise and quiz of lesson 12."""

import torch

from .base import Exercise, Question, Weighted, normal


def pair_loss(f, x0, z, t, s, solver=None):
    x = x0 + t * z
    y = solver(x, t, s) if solver else x0 + s * z
    difference = f(x, t) - f(y, s).detach()
    return difference.square().sum(1)


def _column(*levels):
    return torch.tensor(levels, dtype=torch.float64)[:, None]


def _model():
    """Some model that is not consistent, with one weight."""
    return Weighted(lambda w, x, t: w * x / (1 + t), 0.8)


def _solver(x, t, s):
    """Some step."""
    return x * s / t + 0.1


EXERCISES = (
    Exercise(
        pair_loss,
        (
            "Both points come from the same x0 and the same z. Where is the lower one?",
            "With a solver it is where the solver arrives; without, x0 with less of the same noise. For the gradient the "
            "lower answer is a constant.",
        ),
        lambda: [
            (_model(), normal(4, 2), normal(2, 4).T, _column(1, 2, 3, 80), _column(0.5, 1.8, 1, 60), solver)
            for solver in (_solver, None)
        ],
        {
            "The lower point has the level s: tell f so.": {"f(y, s)": "f(y, t)"},
            "You never take the solver's step: with a teacher the second point is where its ODE leads.":
                {"solver(x, t, s) if solver else ": ""},
        },
        trains=("f",),
    ),
)  # fmt: skip

QUIZ = (
    Question("Which line makes a consistency model out of a denoiser?", "b", {
        "a": ("the loss", "The loss asks two answers to agree. Without the boundary condition 'always 0' would do."),
        "b": ("t - low in the scalings: at the lowest level the answer is the input", "Yes: it ties all other answers to data."),
        "c": ("the grid", "Diffusion and consistency models use the same one."),
    }),
    Question("How do CD and CT differ in these eighty lines?", "a", {
        "a": ("in where the second point y comes from", "Yes: from the teacher's solver, or from the data and the same noise."),
        "b": ("in the network", "It is the same class. CD starts from the teacher's weights, which saves steps."),
        "c": ("in the sampler", "What they learn is called in the same way."),
    }),
    Question("Where does .detach() stand, and why?", "c", {
        "a": ("behind f(x, t), to save memory", "Then the model learns at the lower level alone, to please the higher one."),
        "b": ("behind the solver's step, which is trained", "The teacher is frozen; the step only gives a place."),
        "c": ("behind f(y, s): knowledge flows from low levels to high ones", "Yes: the lower answer is the target."),
    }),
)  # fmt: skip
