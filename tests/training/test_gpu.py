"""What only a CUDA device can show: one result on both devices, the same dropout in both networks, low precision, exact resume."""

import math

import pytest
import torch
from conftest import normal, randomise

from cmlab.base.rng import global_seed, replay_rng
from cmlab.data import ImageData
from cmlab.denoiser import CONSISTENCY, EDM, Denoiser
from cmlab.losses import cd, ect
from cmlab.networks import SongUNetConfig, UNetConfig, build_network
from cmlab.samplers import sample
from cmlab.training import fit

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]
CONFIGS = [UNetConfig(channels=32, mult=(1, 2), dropout=0.3), SongUNetConfig(channels=32, mult=(1, 2), dropout=0.3)]


def model_of(config, precond=CONSISTENCY) -> Denoiser:
    with global_seed(0):
        net = build_network(config, (3, 16, 16), 3)
    randomise(net, scale=0.05)
    return Denoiser(net, precond, (3, 16, 16), 3).eval()


def pictures() -> ImageData:
    return ImageData(normal(64, 3, 16, 16).float().clamp(-1, 1), torch.arange(64) % 3, ("a", "b", "c"))


@pytest.mark.parametrize("config", CONFIGS, ids=["unet", "song"])
def test_a_gpu_draws_the_same_samples_as_a_cpu(config, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    for precond, sampler, steps in ((EDM, "heun", 5), (CONSISTENCY, "multistep", 3)):
        model, label = model_of(config, precond), torch.arange(4) % 3
        here = sample(model, model.shape, range(4), sampler, steps, label=label)
        there = sample(model.cuda(), model.shape, range(4), sampler, steps, label=label.cuda(), device="cuda")
        torch.testing.assert_close(there.cpu(), here, atol=2e-3, rtol=0)


@pytest.mark.parametrize("config", CONFIGS, ids=["unet", "song"])
def test_both_networks_of_a_pair_drop_the_same_units(config):
    model, x = model_of(config).cuda().train(), normal(4, 3, 16, 16).float().cuda()
    level, label = torch.tensor(1.0, device="cuda"), torch.tensor([0, 1, 2, 0], device="cuda")
    with replay_rng(x.device) as replay:
        first = model(x, level, label)
        replay.rewind()
        assert torch.equal(model(x, level, label), first)
    assert not torch.equal(model(x, level, label), first)


@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
@pytest.mark.parametrize("loss", [cd(10), ect(2.0, 2)], ids=["cd", "ect"])
def test_every_precision_trains(loss, precision):
    model, teacher = model_of(CONFIGS[0]), model_of(CONFIGS[0], EDM).cuda().requires_grad_(False)
    before = [p.detach().clone() for p in model.parameters()]
    states = fit(
        model, pictures(), loss, steps=40, batch=16, precision=precision, device="cuda", max_skipped=39,
        teacher=teacher if loss.needs_teacher else None,
    )  # fmt: skip
    *_, last = states
    assert math.isfinite(last.loss) and last.skipped < 39  # fp16 looks for its loss scale first
    assert any(not torch.equal(a, b.detach().cpu()) for a, b in zip(before, model.parameters(), strict=True))
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_resumed_run_draws_what_the_undisturbed_one_draws(accumulate):
    def run(model, **extra):
        options = {"steps": 6, "batch": 16, "optimizer": "adam", "accumulate": accumulate, "device": "cuda"}
        return fit(model, pictures(), ect(2.0, 2), **options, **extra)

    *_, whole = run(model_of(CONFIGS[0]))
    third = next(state.snapshot() for state in run(model_of(CONFIGS[0])) if state.step == 3)
    *_, resumed = run(model_of(CONFIGS[0]), resume=third)
    # cuDNN may choose its algorithms anew; another dropout mask or batch would be a hundred times further away.
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(b, a, atol=1e-4, rtol=1e-3)


def test_the_compiled_network_learns_the_same():
    def run(compile: bool):
        model = model_of(UNetConfig(channels=32, mult=(1, 2)))
        *_, last = fit(model, pictures(), ect(2.0, 2), steps=3, batch=16, optimizer="adam", compile=compile, device="cuda")
        return last

    plain, compiled = run(False), run(True)
    assert compiled.loss == pytest.approx(plain.loss, rel=1e-2)
