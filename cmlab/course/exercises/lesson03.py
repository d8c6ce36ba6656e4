"""Exercises and quiz of lesson 03."""

import torch

from .base import Exercise, Question, blob, normal


def self_consistency(f, path, sigmas):
    answers = torch.stack([f(path[k], sigmas[k]) for k in range(len(sigmas))])
    return (answers - answers[-1]).square().mean((1, 2)).sqrt()


def indicator_f(F, x, sigma, eps):
    return x if sigma == eps else F(x, sigma)


def skip_f(F, x, sigma, eps, sigma_data):
    c_skip = sigma_data**2 / ((sigma - eps) ** 2 + sigma_data**2)
    c_out = sigma_data * (sigma - eps) / (sigma**2 + sigma_data**2) ** 0.5
    return c_skip * x + c_out * F(x, sigma)


def _network(x, sigma):
    """Some free-form F."""
    return torch.sin(3 * x) + sigma


EXERCISES = (
    Exercise(
        self_consistency,
        (
            "One answer of f for each point of the path. To what is each compared?",
            "All answers must agree with one another, so compare each with the last. Average the squares over points and "
            "coordinates, not over levels, and take the root: one number a level.",
        ),
        lambda: [(blob().denoise, normal(5, 4, 2), torch.linspace(top, 0.1, 5, dtype=torch.float64)) for top in (3, 0.8)],
        {
            "You compared with the path's end. Self-consistency compares f's answers with each other, answers[-1] among them; "
            "that they equal the end is the boundary condition.":
                {"- answers[-1]": "- path[-1]"},
            "The mean goes over points and coordinates: you summed the coordinates.": {"mean((1, 2))": "sum(2).mean(1)"},
            "f must be told the level that each point has, sigmas[k], not the same one for all.":
                {"path[k], sigmas[k]": "path[k], sigmas[-1]"},
        },
    ),
    Exercise(
        indicator_f,
        (
            "Eq. 4 has two cases. So has Python.",
            "At eps nothing is left to the network: f is the identity there.",
        ),
        lambda: [(_network, normal(4, 2), torch.tensor(s, dtype=torch.float64), 0.002) for s in (1.0, 0.002)],
        {
            "Without the if nothing ties F at eps to x: the boundary condition is missing.": {"x if sigma == eps else ": ""},
            "The branches are turned round: x itself belongs to sigma == eps alone.": {"==": "!="},
        },
    ),
    Exercise(
        skip_f,
        (
            "The same sum as EDM's, with scalings that reach 1 and 0 at eps instead of at 0.",
            "Look at where the slide writes t - eps: in c_skip, and once in c_out. Its root has t itself, and it is a root.",
        ),
        lambda: [(_network, normal(4, 2), torch.tensor(s, dtype=torch.float64), 0.1, 0.5) for s in (0.1, 0.3, 5.0)],
        {
            "Those are EDM's own scalings. They reach 1 and 0 at sigma = 0; shift sigma by eps where it must.":
                {"(sigma - eps) ** 2": "sigma**2", "* (sigma - eps)": "* sigma"},
            "c_out lacks its square root, as in the lecture's get_scalings: ** 0.5 is missing.": {" ** 0.5": ""},
            "The shift is in c_skip and in c_out's numerator only: the root keeps sigma itself.":
                {"(sigma**2 +": "((sigma - eps) ** 2 +"},
        },
    ),
)  # fmt: skip

QUIZ = (
    Question("A network gives the same answer everywhere. Which condition does it break?", "b", {
        "a": ("self-consistency", "It keeps it perfectly: the answers along any path are equal."),
        "b": ("the boundary condition", "Yes, and only that one. Built into f, it cannot be broken."),
        "c": ("both", "Look at the table of candidates: one of its two numbers is 0."),
    }),
    Question("Why does Eq. 5 make less of a network's error at small noise than Eq. 4?", "c", {
        "a": ("It has more weights.", "The two networks are the same; only what is done with their output differs."),
        "b": ("It is trained for longer.", "Same steps, same draws."),
        "c": ("It multiplies the error by c_out, which vanishes at eps.", "Yes: near eps hardly anything is left to learn."),
    }),
    Question("Where in the plane is a trained consistency model worst?", "a", {
        "a": ("between the regions that go to different spots", "Yes: there the exact f is steep, and a network is smooth."),
        "b": ("in the middle of each region", "There f hardly changes, and the maps are dark."),
        "c": ("equally everywhere", "The star in the maps says otherwise."),
    }),
)  # fmt: skip
