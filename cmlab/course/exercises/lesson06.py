"""Exercises and quiz of lesson 06."""

import torch

from ...oracle import Gaussian
from .base import Exercise, Question, Weighted, blob, normal


def score_from_pair(x, x0, sigma):
    return (x0 - x) / sigma**2


def ct_loss(f, f_target, x0, z, sigma, sigma_next):
    online = f(x0 + sigma[:, None] * z, sigma)
    target = f_target(x0 + sigma_next[:, None] * z, sigma_next)
    return (online - target).square().sum(1)


def algorithm_3(f, theta, x0, z, sigma, sigma_next, mu, lr):
    target, path = theta, [theta]
    for k in range(len(x0)):
        weights = torch.clone(theta).requires_grad_()
        online = f(weights, x0[k] + sigma[k][:, None] * z[k], sigma[k])
        goal = f(target, x0[k] + sigma_next[k][:, None] * z[k], sigma_next[k])
        loss = (online - goal).square().sum(1).mean()
        theta = theta - lr * torch.autograd.grad(loss, weights)[0]
        target = mu[k] * target + (1 - mu[k]) * theta
        path.append(theta)
    return torch.stack(path)


def _pair():
    """Two models that differ, with a weight each."""
    for function, weight in ((blob().consistency, 0.9), (blob().denoise, 1.1)):
        yield Weighted(lambda w, x, sigma, f=function: w * f(x, sigma), weight)


def _three_weights(theta, x, sigma):
    return Gaussian(theta[:2], theta[2].exp()).consistency(x, sigma)


def _trainings():
    levels = torch.tensor([[2.0, 0.5, 8.0], [1.0, 3.0, 0.2], [0.4, 5.0, 1.0], [2.0, 0.1, 0.7]], dtype=torch.float64)
    start = torch.tensor([0.2, -0.4, 0.1], dtype=torch.float64)
    for mu in (0.9, 0.0):
        decay = torch.full((4,), mu, dtype=torch.float64)
        yield _three_weights, start, normal(4, 3, 2), normal(2, 3, 4).permute(2, 1, 0), levels, levels / 2, decay, 0.2


EXERCISES = (
    Exercise(
        score_from_pair,
        (
            "Which density is it the score of? It is normal in x.",
            "The log of a normal density is a constant minus the squared distance to its mean over twice its variance. "
            "Differentiate by x; mind the sign.",
        ),
        lambda: [(normal(6, 2), normal(2, 6).T, torch.tensor(s, dtype=torch.float64)) for s in (0.3, 3.0)],
        {
            "The sign is turned: the estimate must point from x back towards its data point.": {"x0 - x": "x - x0"},
            "The 2 of the density has gone when you differentiate the square.": {"sigma**2": "(2 * sigma**2)"},
            "One factor sigma is missing: x - x0 is sigma z, and a score is z / sigma in size.": {"sigma**2": "sigma"},
        },
    ),
    Exercise(
        ct_loss,
        (
            "Eq. 10: no solver and no teacher. Where does the second point come from?",
            "Noise the same x0 with the same z once more, at the other level. The online model answers at the higher, the "
            "target at the lower one; a squared distance sums over coordinates.",
        ),
        lambda: [
            (*_pair(), normal(6, 2), normal(2, 6).T, levels, 0.6 * levels)
            for levels in (torch.linspace(0.1, 2, 6, dtype=torch.float64), torch.linspace(9, 3, 6, dtype=torch.float64))
        ],
        {
            "The target got the point of level sigma but was told sigma_next: build its own point.":
                {"x0 + sigma_next": "x0 + sigma"},
            "That is a denoising loss: it makes the model return means. Compare with the target network.":
                {"online - target": "online - x0"},
            "A squared distance is a sum over the coordinates, not their mean: it comes out half as large.": {"sum(1)": "mean(1)"},
        },
        trains=("f",),  # the text has the target's weights apart: with or without a gradient for them, both are right
    ),
    Exercise(
        algorithm_3,
        (
            "Three lines of the box: loss, descent, average. In which order do they use theta?",
            "The loss is yours of section 4, with weights in the online call and target in the other. Descent goes against "
            "the gradient. mu is the share that the target keeps, and theta is the new one by then.",
        ),
        _trainings,
        {
            "The step goes up the gradient: theta minus lr times the gradient.": {"theta - lr": "theta + lr"},
            "mu is the share that the target keeps of itself; 1 - mu comes from theta.":
                {"mu[k] * target + (1 - mu[k])": "(1 - mu[k]) * target + mu[k]"},
            "The target took theta from before the step. The algorithm updates theta first.":
                {"(1 - mu[k]) * theta": "(1 - mu[k]) * path[-1]"},
        },
    ),
)  # fmt: skip

QUIZ = (
    Question("The estimate (x0 - x) / sigma^2 of the score is unbiased. Given x, what does that say?", "a", {
        "a": ("Its mean over all x0 that could belong to x is the score.", "Yes; one estimate alone may point anywhere."),
        "b": ("It becomes exact when the network is trained.", "No network takes part in it. It stays as noisy as it is."),
        "c": ("It is exact for small sigma.", "The table says the opposite: there it misses by more than the score is large."),
    }),
    Question("Why do the two points of a CT pair share one z?", "c", {
        "a": ("to save a draw", "The cost of a draw is nothing; section 4 shows what it would cost."),
        "b": ("because both then lie on one path of the PF-ODE",
             "Not quite: they lie on the line x0 + sigma z. On average over x0 that is a step along the path."),
        "c": ("because it is one Euler step with the estimated score", "Yes: the step from x0 + sigma z ends in x0 + sigma' z."),
    }),
    Question("A CT run shows a loss of 0.0001. What do you know about its samples?", "b", {
        "a": ("They are good.", "The run of section 7 with the smallest loss had the worst samples."),
        "b": ("Nothing yet: look at the samples.", "Yes: N, weight, distance and target all change the number."),
        "c": ("They are better than at 0.01.", "Even within one run N(k) and the target move the number."),
    }),
)  # fmt: skip
