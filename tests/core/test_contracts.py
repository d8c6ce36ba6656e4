"""The contracts of every registry: an addition to LOSSES, SAMPLERS, EDITS, DATASETS, NETWORKS is covered without a new test."""

import copy
import inspect
import re
from itertools import pairwise

import pytest
import torch
from conftest import TINY, normal, seeded, soft3, tiny

from cmlab.data import DATASETS, TOYS, load_data
from cmlab.denoiser import EDM
from cmlab.distances import DISTANCES, Distance
from cmlab.editing import EDITS, Edit, apply_edit, preset_mask
from cmlab.losses import LOSSES
from cmlab.methods.continuous import attach_uncertainty
from cmlab.networks import NETWORKS, build_network
from cmlab.oracle import FiniteData, Gaussian
from cmlab.samplers import SAMPLERS, adds_noise, default_sigmas, sample

# --- denoisers -----------------------------------------------------------------------------------------------------------

DENOISERS = {
    "mlp": (tiny("mlp"), (2,)),
    "unet": (tiny("unet"), (3, 8, 8)),
    "mixture": (soft3(), (2,)),
    "gaussian": (Gaussian(torch.zeros(1, 4, 4), 0.5), (1, 4, 4)),
    "finite data": (FiniteData(normal(9, 2)), (2,)),
    "exact consistency": (Gaussian(torch.zeros(2), 0.5).consistency, (2,)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", DENOISERS)
def test_denoisers_keep_shape_and_dtype_for_one_level_or_many(name, dtype):
    denoise, shape = DENOISERS[name]
    x = normal(3, *shape, dtype=dtype)
    one, many = denoise(x, torch.tensor(1.5, dtype=dtype)), denoise(x, torch.full((3,), 1.5, dtype=dtype))
    assert one.shape == x.shape
    assert one.dtype == dtype
    assert torch.allclose(one, many, atol=1e-6)  # float32 rounding at most


@pytest.mark.parametrize("sigma", [0.002, 1.0, 80.0])
@pytest.mark.parametrize("name", DENOISERS)
def test_denoisers_are_finite_over_the_whole_range(name, sigma):
    denoise, shape = DENOISERS[name]
    assert bool(denoise(sigma * normal(3, *shape), torch.tensor(sigma, dtype=torch.float64)).isfinite().all())


# --- losses --------------------------------------------------------------------------------------------------------------


def losing(name: str, kind: str = "mlp", dtype: torch.dtype = torch.float32, classes: int = 0):
    """A loss, a model with its scalings, and the target and teacher that it asks for."""
    loss = LOSSES[name]()
    model = tiny(kind, loss.precond, classes, dtype)
    if loss.needs_uncertainty:
        attach_uncertainty(model)
    extra = {"target": copy.deepcopy(model)} if loss.needs_target else {}
    return loss, model, extra | ({"teacher": tiny(kind, EDM, classes, dtype)} if loss.needs_teacher else {})


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_finite_unreduced_and_train_the_model_alone(name, kind, batch, progress):
    loss, model, extra = losing(name, kind)
    x0 = 0.5 * normal(batch, *model.shape, dtype=torch.float32)
    out = loss(model, x0, progress=progress, draws=seeded(1), **extra)
    for value in out:
        assert value.shape == (batch,)
        assert bool(value.isfinite().all())
    assert bool((out.loss >= 0).all()) or loss.needs_uncertainty
    assert bool((out.weight > 0).all())
    assert bool((out.sigma > 0).all())
    out.loss.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
    assert all(p.grad is None for m in extra.values() for p in m.parameters())


@pytest.mark.parametrize("kind", TINY)
@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_of_a_sample_does_not_depend_on_its_batch(name, kind):
    loss, model, extra = losing(name, kind, torch.float64)
    x0 = 0.5 * normal(3, *model.shape)
    whole = loss(model, x0, progress=0.5, draws=[7, 8, 9], **extra).loss
    alone = loss(model, x0[1:2], progress=0.5, draws=[8], **extra).loss
    assert torch.allclose(whole[1:2], alone, rtol=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_a_function_of_their_draws(name):
    loss, model, extra = losing(name, dtype=torch.float64)
    x0 = 0.5 * normal(8, 2)
    a, b, c = (loss(model, x0, progress=1.0, draws=seeded(k), **extra).loss for k in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("name", LOSSES)
def test_losses_leave_the_global_generator_alone(name):
    loss, model, extra = losing(name)
    loss(model, normal(2, 2, dtype=torch.float32), draws=seeded(), **extra)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_pass_the_label_on(name):
    loss, model, extra = losing(name, dtype=torch.float64, classes=2)
    a, b = (loss(model, normal(2, 2), torch.tensor([k, k]), draws=seeded(), **extra).loss for k in (0, 1))
    assert not torch.equal(a, b)


@pytest.mark.parametrize("name", DISTANCES)
def test_distances_are_symmetric_and_zero_at_equality(name):
    a, b = normal(4, 3, 2, 2, seed=1), normal(4, 3, 2, 2, seed=2)
    # The weights of LPIPS are a download: here its features are the pixels.
    d = Distance(name, network=lambda a, b: (a - b).square().flatten(1).mean(1)) if name == "lpips" else Distance(name)
    assert torch.equal(d(a, b), d(b, a))
    assert bool((d(a, b) > 0).all())
    assert bool((d(a, a) == 0).all())


# --- samplers ------------------------------------------------------------------------------------------------------------

# Their orders: tests/methods/test_solvers.py, which fails for an ODE sampler whose order it does not know.


@pytest.mark.parametrize(("name", "steps"), [(n, k) for n in SAMPLERS for k in ((1,) if n == "onestep" else (1, 2, 7))])
def test_k_steps_give_k_steps(name, steps):
    grid = default_sigmas(name, steps)
    noise = list(range(3)) if adds_noise(name, len(grid)) else None
    states = list(SAMPLERS[name](soft3(), 80 * normal(3, 2), grid, noise=noise))
    assert [s.i for s in states] == list(range(steps))
    assert all(a.nfe < b.nfe for a, b in pairwise(states))
    assert all(s.x.shape == s.x0_hat.shape == (3, 2) and s.x.dtype == torch.float64 for s in states)
    assert all(s.sigma > s.sigma_next >= 0 for s in states)


@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_share_one_signature(name):
    parameters = inspect.signature(SAMPLERS[name]).parameters
    assert list(parameters)[:6] == ["denoise", "x", "sigmas", "label", "noise", "project"]


@pytest.mark.parametrize("name", SAMPLERS)
def test_sample_k_is_a_function_of_seed_k(name):
    steps = 1 if name == "onestep" else 3
    whole = sample(soft3(), (2,), range(5, 11), name, steps)
    assert torch.allclose(whole[2:4], sample(soft3(), (2,), [7, 8], name, steps), atol=1e-12)


# --- edits ---------------------------------------------------------------------------------------------------------------

EXTRA = {"inpaint": (preset_mask("left", (8, 8)),)}  # arguments after the reference


@pytest.mark.parametrize("name", EDITS)
def test_edits_keep_what_they_keep(name):
    model, y = tiny("unet"), normal(2, 3, 8, 8).clamp(-1, 1)
    edit = EDITS[name](y, *EXTRA.get(name, ()))
    assert isinstance(edit, Edit)
    result = apply_edit(model, edit, [3, 4])
    assert result.shape == y.shape
    assert bool(result.isfinite().all())
    a, b = edit.operator.forward(result), edit.operator.forward(y)
    assert float(((a - b) * (1 - edit.free)).abs().max()) < 1e-5
    assert float((result - y).abs().max()) > 1e-2


@pytest.mark.parametrize("name", EDITS)
def test_edits_project_idempotently_and_invertibly(name):
    y, x = normal(2, 3, 8, 8), normal(2, 3, 8, 8, seed=1)
    edit = EDITS[name](y, *EXTRA.get(name, ()))
    once = edit.project(x)
    a, before = edit.operator.forward(once), edit.operator.forward(x)
    assert float((edit.project(once) - once).abs().max()) < 1e-12
    assert float((edit.operator.inverse(before) - x).abs().max()) < 1e-12
    assert float(((a - before) * edit.free).abs().max()) < 1e-12


@pytest.mark.parametrize("name", EDITS)
def test_edits_are_a_function_of_their_seeds(name):
    model, y = tiny("unet"), normal(1, 3, 8, 8)
    edit = EDITS[name](y, *EXTRA.get(name, ()))
    a, b, c = (apply_edit(model, edit, [seed]) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert torch.equal(a, c) == edit.noisy  # denoising draws nothing


# --- data and networks ---------------------------------------------------------------------------------------------------


BUILT_IN = DATASETS.of_kind("toy", "images")


@pytest.mark.parametrize("name", BUILT_IN)
def test_data_sets_give_what_training_asks_for(name):
    data = load_data(name)
    x0, label = data.batch(64, seeded(1))
    assert x0.shape == (64, *data.shape)
    assert x0.dtype == torch.float32
    assert bool(x0.isfinite().all())
    assert float(x0.abs().max()) <= (1.0 if len(data.shape) == 3 else 4.0)
    assert (label is None) == (data.classes == 0)
    if label is not None:
        assert label.dtype == torch.int64
        assert 0 <= int(label.min()) <= int(label.max()) < data.classes
    again, _ = load_data(name).batch(64, seeded(1))
    other, _ = data.batch(64, seeded(2))
    assert torch.equal(x0, again)
    assert not torch.equal(x0, other)


def test_toys_are_the_data_sets_of_the_plane():
    assert set(TOYS) == {name for name in BUILT_IN if load_data(name).shape == (2,)}


@pytest.mark.parametrize("name", sorted(set(DATASETS) - set(BUILT_IN)))
def test_data_sets_whose_files_are_absent_say_what_to_put_where(name, tmp_path, monkeypatch):
    monkeypatch.setenv("CMLAB_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"{re.escape(str(tmp_path))}.*: put .*CMLAB_DATA"):
        load_data(name)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", [1, 5])
def test_networks_start_at_zero_in_the_shape_of_x(name, batch):
    config, shape = TINY[name]
    net = build_network(config, shape, 3)
    out = net(normal(batch, *shape, dtype=torch.float32), torch.zeros(batch), torch.zeros(batch, dtype=torch.int64))
    assert torch.equal(out, torch.zeros(batch, *shape))
