"""Exercises and quiz of lesson 00."""

import torch

from .base import Exercise, Question, blob, normal


def add_noise(x0, sigma, eps):
    return x0 + sigma * eps


def one_step(f, noise, sigma_max):
    x = sigma_max * noise  # the start of the PF-ODE
    return f(x, torch.tensor(sigma_max))


EXERCISES = (
    Exercise(
        add_noise,
        (
            "The picture keeps its size; what is put on top of it?",
            "eps has standard deviation 1, and sigma is the standard deviation that the noise shall have. Make a new "
            "tensor; x0 is used again.",
        ),
        lambda: [(normal(3, 2), s, normal(2, 3).T) for s in (0.5, 0.9)],
        {
            "sigma is a standard deviation here, not a variance: it multiplies the unit noise as it is.": {"sigma *": "sigma**2 *"},
            "That is DDPM's variance-preserving form. In this package the data keep their size.":
                {"x0 +": "(1 - sigma**2) ** 0.5 * x0 +"},
        },
    ),
    Exercise(
        one_step,
        (
            "Two things must fit together: the point you start from, and the level that you tell f.",
            "At level sigma_max a point is almost pure noise of that standard deviation; noise has standard deviation 1. f "
            "wants the level as a tensor.",
        ),
        lambda: [(blob().consistency, normal(4, 2), s) for s in (80.0, 10.0)],
        {
            "The model was told sigma_max but received noise of size 1: multiply the noise first.": {"sigma_max * noise": "noise"},
            "At sigma = 0.002 a consistency model returns its input: tell it the level that x really has.":
                {"tensor(sigma_max)": "tensor(0.002)"},
        },
    ),
)  # fmt: skip

QUIZ = (
    Question("What does a consistency model return when you call it at the lowest level, sigma = 0.002?", "b", {
        "a": ("the mean of the data", "That is what a diffusion model's denoiser returns at the highest level."),
        "b": ("its input", "This is the boundary condition; it holds bit for bit, whatever the weights are."),
        "c": ("pure noise", "Nothing in cmlab turns data into noise except the line that adds it."),
    }),
    Question("Why does one step of the diffusion model give a blur?", "c", {
        "a": ("It was trained for too short a time.", "A perfect denoiser does the same: see the oracle in notebook 01."),
        "b": ("Its weights are stored in half precision.", "The same weights give sharp digits in 18 steps."),
        "c": ("Its answer at high noise is an average over the data.", "Yes: D is a mean, f is one end point."),
    }),
    Question("You leave an exercise unsolved. What do the later cells run on?", "a", {
        "a": ("on the library's answer", "Yes, so you can read on and come back."),
        "b": ("they stop with an error", "Try it: choose 'Run All Cells' in a fresh notebook."),
    }),
)  # fmt: skip
