"""Optimizers: Muon against the singular values that define it and against torch's, RAdam's first steps."""

import math

import pytest
import torch
from conftest import normal, soft3, tiny
from torch import nn

from cmlab.data import ImageData, MixtureData
from cmlab.denoiser import EDM
from cmlab.losses import EDMLoss
from cmlab.training import fit
from cmlab.training.optimizers import ADAM, OPTIMIZERS, Muon, RAdam, move_where, orthogonal


def newton_schulz(s: torch.Tensor) -> torch.Tensor:
    """What five iterations do to a singular value."""
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (5, 1)])
def test_orthogonal_moves_the_singular_values_alone(shape):
    matrix = normal(*shape).double()
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(orthogonal(matrix), (u * newton_schulz(s / s.norm())) @ v, rtol=1e-6, atol=1e-6)
    assert torch.linalg.svdvals(orthogonal(matrix)).sub(1).abs().max() < 0.35


def moved(optimizer, parameters: list[nn.Parameter], gradients: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    for step in gradients:
        for p, g in zip(parameters, step, strict=True):
            p.grad = g.clone()
        optimizer.step()
    return [p.detach() for p in parameters]


def parameters(*shapes: tuple[int, ...], dtype=torch.float32) -> list[nn.Parameter]:
    return [nn.Parameter(normal(*shape, seed=k).to(dtype)) for k, shape in enumerate(shapes)]


def gradients(of: list[nn.Parameter], steps: int = 4, scale: float = 1.0) -> list[list[torch.Tensor]]:
    return [[scale * normal(*p.shape, seed=9 * k + i).to(p) for i, p in enumerate(of)] for k in range(steps)]


def test_muon_is_torchs_for_matrices_and_adam_for_the_rest():
    shapes = (12, 5), (5, 12), (7,), ()
    ours, torchs = parameters(*shapes), parameters(*shapes)
    given = gradients(ours)
    moved(Muon(ours, lr=0.02, weight_decay=0.1), ours, given)
    matrices = torch.optim.Muon(torchs[:2], lr=0.02, momentum=0.95, adjust_lr_fn="original", weight_decay=0.1)
    moved(matrices, torchs[:2], [step[:2] for step in given])
    moved(torch.optim.AdamW(torchs[2:], lr=0.02 * ADAM, weight_decay=0.1), torchs[2:], [step[2:] for step in given])
    for a, b in zip(ours[:2], torchs[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)  # torch iterates in bfloat16
    for a, b in zip(ours[2:], torchs[2:], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_muon_takes_a_filter_bank_as_a_matrix_in_any_memory_format():
    bank, flat, by_pixel = (nn.Parameter(p) for p in (normal(6, 4, 3, 3), normal(6, 4, 3, 3).flatten(1), normal(6, 4, 3, 3)))
    by_pixel.data = by_pixel.data.to(memory_format=torch.channels_last)
    for p in (bank, flat, by_pixel):
        moved(Muon([p], lr=0.1), [p], gradients([bank], 3) if p is not flat else [[g.flatten(1)] for [g] in gradients([bank], 3)])
    torch.testing.assert_close(bank.flatten(1), flat, rtol=0, atol=0)
    torch.testing.assert_close(bank, by_pixel.contiguous(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("beta2", [0.99, 0.999])
def test_radam_is_torchs_where_gradients_are_small(beta2):
    ours, torchs = parameters((4, 3), (5,)), parameters((4, 3), (5,))
    options = {"lr": 0.01, "betas": (0.9, beta2), "weight_decay": 0.1}
    for kind, own in ((RAdam, ours), (torch.optim.RAdam, torchs)):
        moved(kind(own, **options), own, gradients(own, 12, 0.1))
    for a, b in zip(ours, torchs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=3e-7)  # a rounding or two of numbers about 1, in 12 steps


def test_tensors_of_different_ages_are_moved_by_torch_itself():
    ours, torchs = parameters((4, 3), (5,)), parameters((4, 3), (5,))
    for kind, own in ((RAdam, ours), (torch.optim.RAdam, torchs)):
        optimizer = kind(own, lr=0.01)
        for k, (first, second) in enumerate(gradients(own, 12, 0.1)):
            own[0].grad, own[1].grad = first.clone(), second.clone() if k > 3 else None
            optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, torchs, strict=True))


def test_radams_first_steps_are_no_longer_than_the_rate():
    own = parameters((4, 3), (5,))
    optimizer, before = RAdam(own, lr=0.01), torch.cat([p.detach().flatten() for p in own])
    for k, step in enumerate(gradients(own, 12, 1e6)):
        now = torch.cat([p.flatten() for p in moved(optimizer, own, [step])])
        assert (now - before).norm() <= 0.01 * (1.0001 if k < 5 else 17**0.5)  # then by the rate in each number, at most
        before = now


# 8 x 8 digits make a loss of about 60, a picture of 64 x 64 in colour 200 times as much.
@pytest.mark.parametrize("optimizer", ["radam", "adam", "adamw", "muon"])
@pytest.mark.parametrize(("side", "colours"), [(8, 1), (64, 3)])
def test_no_optimizer_blows_up_on_large_pictures(optimizer, side, colours):
    pictures = ImageData(normal(16, colours, side, side).sign(), None)
    model = tiny("unet", EDM, 1)
    model = type(model)(type(model.net)(model.config, pictures.shape), EDM, pictures.shape)
    losses = [
        s.loss for s in fit(model, pictures, EDMLoss(), steps=12, batch=4, lr=2e-3, optimizer=optimizer, lr_schedule="constant")
    ]
    assert max(losses) < 2 * losses[0]


def test_muon_learns_points_in_fewer_steps_than_radam():
    last = {}
    for optimizer, lr in (("muon", 0.01), ("radam", 1e-3)):
        states = fit(tiny(precond=EDM), MixtureData(soft3()), EDMLoss(), steps=60, every=20, batch=128, optimizer=optimizer, lr=lr)
        last[optimizer] = [state.loss for state in states][-1]
    assert last["muon"] < last["radam"]


@pytest.mark.parametrize(("name", "fused"), [*((name, False) for name in OPTIMIZERS), ("adam", True), ("adamw", True)])
@pytest.mark.parametrize("when", [(0,), (1,), (0, 3), (7,)])
def test_a_step_that_a_gpu_decides_against_moves_nothing(name, fused, when):
    """What `move_where` does on a GPU, here on CPU tensors: the same bits as leaving the step out."""
    options = {"lr": 0.01, "weight_decay": 0.1, "betas": (0.9, 0.99)} | ({"fused": True} if fused else {})
    gradients = [seeded_gradients(k) for k in range(10)]
    runs = []
    for decided_there in (True, False):
        weights = [torch.nn.Parameter(p) for p in seeded_gradients(99)]
        optimizer = OPTIMIZERS[name](weights, **options)
        for k, given in enumerate(gradients):
            bad = k in when
            for weight, gradient in zip(weights, given, strict=True):
                weight.grad = gradient * math.nan if bad else gradient.clone()
            if decided_there:
                move_where(torch.tensor(not bad), optimizer, weights)
            elif not bad:
                optimizer.step()
        runs.append([p.detach() for p in weights])
    for a, b in zip(*runs, strict=True):
        assert torch.equal(a, b)


def seeded_gradients(seed: int) -> list[torch.Tensor]:
    return [normal(4, 3, seed=seed, dtype=torch.float32), normal(5, seed=seed + 1, dtype=torch.float32)]
