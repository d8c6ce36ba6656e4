"""The preconditionings and the one denoiser code path: the boundary condition is exact, not approximate."""

import copy
import math

import pytest
import torch
from conftest import normal, randomise, tiny
from torch import nn

from cmlab.denoiser import CONSISTENCY, EDM, Denoiser, Precond
from cmlab.methods.guidance import conditioned

DTYPES = [torch.float32, torch.float64]
KINDS = ["mlp", "unet"]


def levels(form: str, value: float, batch: int, dtype: torch.dtype):
    return {
        "scalar": torch.tensor(value, dtype=dtype),
        "per sample": torch.full((batch,), value, dtype=dtype),
        "scalar of the other dtype": torch.tensor(value, dtype=torch.float64 if dtype == torch.float32 else torch.float32),
        "number": value,
    }[form]


@pytest.mark.parametrize("form", ["scalar", "per sample", "scalar of the other dtype", "number"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_boundary_is_bitwise(kind, dtype, form):
    model = tiny(kind, CONSISTENCY, dtype=dtype)
    x = normal(3, *model.shape, dtype=dtype) * 10
    assert torch.equal(model(x, levels(form, 0.002, 3, dtype)), x)


@pytest.mark.parametrize("sigma_min", [0.003, 0.1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_boundary_is_bitwise_for_any_sigma_min_and_sigma_data(dtype, sigma_min):
    model = tiny("mlp", Precond(sigma_data=0.3, sigma_min=sigma_min), dtype=dtype)
    x = normal(3, 2, dtype=dtype)
    assert torch.equal(model(x, torch.tensor(sigma_min, dtype=dtype)), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_mixed_batch_keeps_its_boundary_rows(kind, dtype):
    model = tiny(kind, CONSISTENCY, dtype=dtype)
    x = normal(2, *model.shape, dtype=dtype)
    out = model(x, torch.tensor([0.002, 3.0], dtype=dtype))
    assert torch.equal(out[0], x[0])
    assert not torch.allclose(out[1], x[1])


@pytest.mark.parametrize("precond", [EDM, CONSISTENCY, Precond(sigma_min=0.1)])
@pytest.mark.parametrize("kind", KINDS)
def test_sigma_zero_is_finite_and_the_identity(kind, precond):
    model = tiny(kind, precond)
    x = normal(2, *model.shape, dtype=torch.float32)
    out = model(x, torch.tensor(0.0))
    assert torch.equal(out, x)
    out.square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("sigma", [0.002, 0.05, 1.0, 80.0])
@pytest.mark.parametrize("sigma_min", [0.0, 0.002])
def test_coefficients_are_those_of_the_papers(sigma, sigma_min):
    c = Precond(0.5, sigma_min)(torch.tensor(sigma, dtype=torch.float64))
    above = sigma - sigma_min
    expected = (
        0.25 / (above**2 + 0.25),
        0.5 * above / math.sqrt(sigma**2 + 0.25),
        1 / math.sqrt(sigma**2 + 0.25),
        math.log(sigma) / 4,
    )
    assert [v.item() for v in c] == pytest.approx(expected, rel=1e-14, abs=1e-300)


def test_denoiser_applies_the_coefficients():
    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros((), dtype=torch.float64))

        def forward(self, x, c_noise, label):
            self.seen = (x, c_noise, label)
            return torch.full_like(x, 3.0)

    net = Recorder()
    x, sigma, label = normal(2, 2), torch.tensor([0.5, 2.0], dtype=torch.float64), torch.tensor([1, 0])
    out = Denoiser(net, EDM, (2,), classes=2)(x, sigma, label)
    c = EDM(sigma)
    assert torch.equal(out, c.c_skip[:, None] * x + c.c_out[:, None] * 3)
    assert torch.equal(net.seen[0], c.c_in[:, None] * x)
    assert torch.equal(net.seen[1], c.c_noise)
    assert net.seen[2] is label


@pytest.mark.parametrize("kind", KINDS)
def test_float64_states_stay_float64_over_a_float32_network(kind):
    model = tiny(kind)
    x = normal(2, *model.shape)
    out = model(x, torch.tensor(1.5, dtype=torch.float64))
    assert out.dtype == torch.float64
    # The network alone is float32, so the whole agrees with the float64 network to float32 rounding through a few layers.
    assert torch.allclose(out, tiny(kind, dtype=torch.float64)(x, torch.tensor(1.5, dtype=torch.float64)), atol=1e-5)


@pytest.mark.parametrize("sigma", [torch.tensor(3), 3])
def test_integer_levels_are_levels(sigma):
    model = tiny()
    x = normal(2, 2, dtype=torch.float32)
    assert torch.equal(model(x, sigma), model(x, torch.tensor(3.0)))


@pytest.mark.parametrize("kind", KINDS)
def test_one_level_equals_the_same_level_per_sample(kind):
    model = tiny(kind)
    x = normal(3, *model.shape, dtype=torch.float32)
    assert torch.equal(model(x, torch.tensor(1.5)), model(x, torch.full((3,), 1.5)))


def test_another_sample_shape_is_an_error():
    with pytest.raises(ValueError, match=r"samples of shape \(2,\), got a batch of shape \(4, 3\)"):
        tiny()(torch.zeros(4, 3), torch.tensor(1.0))


def test_a_network_that_changes_the_shape_is_an_error():
    class Narrow(nn.Linear):
        def forward(self, x, c_noise, label=None):
            return super().forward(x)

    with pytest.raises(ValueError, match=r"Narrow makes \(4, 1\) of \(4, 2\): a network keeps the shape"):
        Denoiser(Narrow(2, 1), EDM, (2,))(torch.zeros(4, 2), torch.tensor(1.0))


def test_a_label_for_an_unconditional_model_is_an_error():
    with pytest.raises(ValueError, match="unconditional"):
        tiny()(torch.zeros(4, 2), torch.tensor(1.0), torch.zeros(4, dtype=torch.int64))


def test_another_number_of_levels_is_an_error():
    with pytest.raises(ValueError, match="one value per sample"):
        tiny()(torch.zeros(4, 2), torch.ones(3))


def test_integer_samples_are_an_error():
    with pytest.raises(ValueError, match=r"floating point numbers, got torch.int32: pass x.float\(\)"):
        tiny()(torch.zeros(4, 2, dtype=torch.int32), torch.tensor(1.0))


@pytest.mark.parametrize("sigma", [-1.0, torch.tensor(-1.0), torch.tensor([1.0, -1.0, 0.0, 2.0])])
def test_a_negative_level_is_an_error(sigma):
    with pytest.raises(ValueError, match="cannot be negative, got -1"):
        tiny()(torch.zeros(4, 2), sigma)


def test_samples_on_another_device_than_the_model_are_an_error():
    with pytest.raises(ValueError, match=r"the model is on cpu, the samples are on meta: pass device="):
        tiny()(torch.zeros(4, 2, device="meta"), torch.tensor(1.0))


LABELS = {
    "one integer per sample: 4 samples, but label has the shape \\(2,\\)": torch.tensor([0, 1]),
    "one integer per sample": torch.tensor(1),
    "must lie in 0..2: this model has no class 3": torch.tensor([0, 1, 2, 3]),
    "must lie in 0..2: this model has no class -1": torch.tensor([0, 1, 2, -1]),
    "a tensor of integers 0..2, .*got torch.float32": torch.tensor([0.0, 1.0, 1.5, 2.0]),
    "a tensor of integers 0..2, .*got torch.bool": torch.ones(4, dtype=torch.bool),
    "a tensor of integers 0..2, .*got int 1": 1,
}


@pytest.mark.parametrize("message", LABELS)
def test_a_label_that_is_no_class_of_the_model_is_an_error(message):
    with pytest.raises(ValueError, match=message):
        tiny(classes=3)(torch.zeros(4, 2), torch.tensor(1.0), LABELS[message])


def test_no_class_is_a_label_where_the_model_was_trained_without_labels():
    model = tiny(classes=3)
    model.drops_labels = True
    x, none = normal(2, 2, dtype=torch.float32), torch.tensor([-1, -1], dtype=torch.int32)
    assert torch.equal(model(x, torch.tensor(1.0), none), model(x, torch.tensor(1.0)))
    with pytest.raises(ValueError, match=r"0..2, or -1 for no class: this model has no class -2"):
        model(x, torch.tensor(1.0), torch.tensor([-1, -2]))


def guided(weight: float) -> Denoiser:
    net = tiny(classes=3).net
    randomise(net)
    return Denoiser(net, EDM, (2,), 3, drops_labels=True, guidance=weight)


def test_guidance_of_a_model_is_that_of_its_two_estimates():
    free = guided(1.0)
    x, sigma, label = normal(4, 2), torch.tensor([0.1, 0.7, 3.0, 40.0]).double(), torch.tensor([2, 0, -1, 1])
    told, untold = free(x, sigma, label), free(x, sigma)
    model = copy.deepcopy(free)
    model.guidance = 2.5
    assert torch.allclose(model(x, sigma, label), untold + 2.5 * (told - untold), rtol=0, atol=1e-5)
    assert not torch.allclose(model(x, sigma, label), told, rtol=0, atol=1e-3)
    assert torch.equal(model(x, sigma), untold)  # without a label there is nothing to lead to
    assert torch.allclose(model(x, sigma, label)[2], untold[2], rtol=0, atol=1e-6)
    calls = []
    for each in (free, model):
        each.net.register_forward_hook(lambda *_, each=each: calls.append(each))
        each(x, sigma, label)
        assert calls.count(each) == each.traits.evaluations


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drops_labels": False}, "trained with label_dropout, and this one is never trained without its labels: take 1"),
        ({"precond": CONSISTENCY}, "for diffusion models .* this one is a consistency model"),
        ({"guidance": -0.1}, "at least 0, 1 for none, got -0.1"),
        ({"guidance": math.nan}, "got nan"),
        ({"guidance": math.inf}, "got inf"),
    ],
)
def test_what_cannot_be_guided_says_so(changes, message):
    given = {"precond": EDM, "shape": (2,), "classes": 3, "drops_labels": True, "guidance": 2.0} | changes
    with pytest.raises(ValueError, match=message):
        Denoiser(tiny(classes=3).net, **given)


def test_a_low_precision_is_that_of_the_network_alone():
    model, x, sigma = tiny("unet", EDM).eval(), normal(4, 3, 8, 8), torch.tensor([0.002, 0.5, 3.0, 80.0], dtype=torch.float64)
    exact, c = model(x, sigma), model.precond(sigma[:, None, None, None])
    model.compute = torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        net = model.net((c.c_in * x).float(), c.c_noise.flatten().float(), None)
    assert net.dtype == torch.bfloat16
    low = model(x, sigma)
    assert torch.equal(low, c.c_skip * x + c.c_out * net.double())
    assert not torch.equal(low, exact)
    torch.testing.assert_close(low, exact, atol=0.02, rtol=0)
    model.precond = CONSISTENCY
    assert torch.equal(model(x, torch.tensor(0.002, dtype=torch.float64)), x)


def test_guidance_does_not_round_to_the_low_precision():
    model, x, sigma, label = guided(3.0).eval(), normal(2, 2), torch.tensor(1.0, dtype=torch.float64), torch.tensor([0, 1])
    model.compute = torch.bfloat16
    whole = model(x, sigma, label)
    model.guidance = 1
    free, own = model(x, sigma), model(x, sigma, label)
    torch.testing.assert_close(whole, free + 3 * (own - free), atol=1e-5, rtol=0)


def test_levels_and_labels_are_checked_inside_vmap_too():
    model, x, label = tiny(classes=3), normal(4, 2, dtype=torch.float32), torch.tensor([0, 1, 2, 1])
    levels = torch.tensor([0.5, 1.0, 2.0, 3.0])
    each = torch.func.vmap(lambda x, sigma, label: model(x[None], sigma[None], label[None])[0])
    assert torch.allclose(each(x, levels, label), model(x, levels, label), atol=1e-6)
    with pytest.raises(ValueError, match="cannot be negative"):
        each(x, -levels, label)
    with pytest.raises(ValueError, match="no class 3"):
        each(x, levels, label + 1)


def test_conditioned_fixes_the_class_of_every_row():
    model = tiny(classes=3)
    x, sigma, label = normal(4, 2, dtype=torch.float32), torch.tensor(1.0), torch.tensor([2, 0, 1, 1])
    fixed = conditioned(model, label)
    assert torch.equal(fixed(x, sigma), model(x, sigma, label))
    assert torch.equal(fixed(x[:2], sigma), model(x[:2], sigma, label[:2]))
