"""A consistency model in eighty lines of PyTorch: lesson 12 without the words. ``python eighty_lines.py`` takes half a minute."""

import copy
import math
from itertools import pairwise

import torch
from torch import nn

EPS, T, SPREAD = 0.002, 80.0, 0.5  # lowest and highest noise level; standard deviation of the data


def two_moons(n):
    angle, side = math.pi * torch.rand(n), 2 * torch.randint(2, (n, 1)) - 1
    moon = torch.stack([angle.cos() - 0.5, angle.sin() - 0.25], 1)
    return 0.71 * (side * moon + 0.08 * torch.randn(n, 2))


class Denoiser(nn.Module):
    def __init__(self, low, dim=2, width=128):
        super().__init__()
        self.low, sizes = low, pairwise([dim + 1, width, width, width])
        layers = [layer for a, b in sizes for layer in (nn.Linear(a, b), nn.SiLU())]
        self.net = nn.Sequential(*layers, nn.Linear(width, dim))

    def forward(self, x, t):
        t = torch.as_tensor(t).expand(len(x), 1)
        total = (t**2 + SPREAD**2).sqrt()
        c_skip = SPREAD**2 / ((t - self.low) ** 2 + SPREAD**2)
        c_out = SPREAD * (t - self.low) / total
        return c_skip * x + c_out * self.net(torch.cat([3 * x / total, t.log()], 1))


def diffusion_loss(D, x0):
    t = (1.2 * torch.randn(len(x0), 1) - 1.2).exp()
    error = D(x0 + t * torch.randn_like(x0), t) - x0
    return ((t**2 + SPREAD**2) / (t * SPREAD) ** 2 * error**2).mean()


def train(model, loss, data, steps, batch=256, lr=2e-3):
    average, optimizer = copy.deepcopy(model), torch.optim.Adam(model.parameters(), lr)
    for k in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min(1, 2 - 2 * k / steps)
        optimizer.zero_grad()
        loss(model, data(batch), k / steps).backward()
        optimizer.step()
        for old, new in zip(average.parameters(), model.parameters(), strict=True):
            old.data.lerp_(new.data, 0.02)
    return average


def levels(n):
    return torch.linspace(T ** (1 / 7), EPS ** (1 / 7), n)[:, None] ** 7


@torch.no_grad()
def heun_step(D, x, t, s):
    slope = (x - D(x, t)) / t
    there = x + (s - t) * slope
    return x + (s - t) * (slope + (there - D(there, s)) / s) / 2


def diffusion_samples(D, z, n=18):
    x, grid = T * z, levels(n)
    for t, s in pairwise(grid):
        x = heun_step(D, x, t, s)
    return x


def consistency_loss(f, x0, n, teacher=None):
    i, z = torch.randint(n - 1, (len(x0),)), torch.randn_like(x0)
    t, s = levels(n)[i], levels(n)[i + 1]
    x = x0 + t * z
    y = heun_step(teacher, x, t, s) if teacher else x0 + s * z
    difference = f(x, t) - f(y, s).detach()
    distance = (difference.square().sum(1, keepdim=True) + 0.03**2).sqrt() - 0.03
    return (distance / (t - s)).mean()


@torch.no_grad()
def consistency_samples(f, z, between=()):
    x = f(T * z, T)
    for t in between:
        x = f(x + math.sqrt(t**2 - EPS**2) * torch.randn_like(x), t)
    return x


def distance(a, b):
    angle = torch.linspace(0, math.pi, 64)
    a, b = ((x @ torch.stack([angle.cos(), angle.sin()])).sort(0).values for x in (a, b))
    return float((a - b).square().mean().sqrt())


def main(steps=2000, n=4000):
    torch.manual_seed(0)
    D = train(Denoiser(0), lambda D, x0, done: diffusion_loss(D, x0), two_moons, steps)
    start = Denoiser(EPS)
    start.load_state_dict(D.state_dict())
    cd = train(start, lambda f, x0, done: consistency_loss(f, x0, 18, D), two_moons, steps)
    ct = train(Denoiser(EPS), lambda f, x0, done: consistency_loss(f, x0, 10 * 2 ** int(5 * done)), two_moons, 3 * steps // 2)
    z, data = torch.randn(n, 2), two_moons(n)
    clouds = {"fresh data": two_moons(n), "diffusion, 34 calls": diffusion_samples(D, z)}
    for name, f in {"CD": cd, "CT": ct}.items():
        clouds |= {f"{name}, 1 call": consistency_samples(f, z), f"{name}, 2 calls": consistency_samples(f, z, [0.8])}
    return {name: distance(cloud, data) for name, cloud in clouds.items()}


if __name__ == "__main__":
    print(*(f"{name:20} {value:.3f}" for name, value in main().items()), sep="\n")
