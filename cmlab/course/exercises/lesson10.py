"""Exercises and quiz of lesson 10."""

import torch

from .base import Exercise, Question, normal


def spherical(z1, z2, a):
    psi = torch.acos((z1 * z2).sum() / (z1.norm() * z2.norm()))
    return (torch.sin((1 - a) * psi) * z1 + torch.sin(a * psi) * z2) / torch.sin(psi)


def replace_kept(A, A_inv, y, x0_hat, free):
    return A_inv(A(y) * (1 - free) + A(x0_hat) * free)


def _rotations():
    q = torch.linalg.qr(normal(4, 4))[0]
    free = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    yield lambda x: x @ q, lambda x: x @ q.T, normal(5, 4), normal(1, 5, 4)[0], free
    yield lambda x: x, lambda x: x, normal(5, 4), normal(1, 5, 4)[0], 1 - free


EXERCISES = (
    Exercise(
        spherical,
        (
            "Two weights that depend on the angle between the vectors, not on a alone.",
            "Get the angle from the cosine, the scalar product over both lengths. The weights are sines of the two parts of "
            "the angle, over the sine of the whole; a = 0 must give z1.",
        ),
        lambda: [(normal(12), normal(3, 4).flatten(), a) for a in (0.0, 0.3, 1.0)],
        {
            "That is the straight line: half way the vector is too short to be noise of its level.":
                {"torch.sin((1 - a) * psi)": "(1 - a)", "torch.sin(a * psi)": "a", " / torch.sin(psi)": ""},
            "The ends are swapped: a = 0 must give z1.": {"psi) * z1": "psi) * z2", "psi) * z2": "psi) * z1"},
            "Divide by sin(psi), or a = 0 gives sin(psi) z1 instead of z1.": {" / torch.sin(psi)": ""},
        },
    ),
    Exercise(
        replace_kept,
        (
            "The mask belongs to the coordinates of A, not to pixels.",
            "Both pictures must be in the same coordinates before they are mixed. free = 1 is what the model decides. The "
            "result must come back.",
        ),
        _rotations,
        {
            "The mask is turned round: free = 1 means that the model decides.":
                {"* (1 - free)": "* free", "* free": "* (1 - free)"},
            "x0_hat must be put into the coordinates of A as well before the two are mixed.": {"A(x0_hat)": "x0_hat"},
            "The mask marks coordinates of A: mix A(y) and A(x0_hat), then go back by A_inv.":
                {"A_inv(A(y)": "(y", "A(x0_hat)": "x0_hat"},
            "The result is still in the coordinates of A: go back by A_inv.": {"A_inv(": "("},
        },
    ),
)  # fmt: skip

QUIZ = (
    Question("Why does interpolation follow the sphere and not the straight line?", "a", {
        "a": ("Noise vectors have nearly equal lengths, and the line leaves that shell", "Yes: see the printed lengths."),
        "b": ("The straight line is slower to compute", "It is the cheaper of the two."),
        "c": ("f is linear on the sphere", "f is nowhere linear."),
    }),
    Question("What distinguishes inpainting, colourisation and super-resolution in Algorithm 4?", "b", {
        "a": ("each needs a model of its own", "Zero-shot means the contrary: one model, trained for none of them."),
        "b": ("the change of coordinates A and the mask, nothing else", "Yes: pixels, a rotated colour space, patch means."),
        "c": ("the number of steps", "All three walk down the same grid."),
    }),
    Question("Kept values are exact. Are the free ones exact draws from p(free | kept)?", "b", {
        "a": ("Yes: the projection makes them so", "It makes the kept coordinates exact, no more."),
        "b": ("No: replacing is not conditioning", "Yes: section 7 measures the difference where the truth is known."),
    }),
)  # fmt: skip
