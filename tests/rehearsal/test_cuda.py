"""The CUDA path without a GPU: no tensor of another device in any operation, and no wait in a step (see pretend.py).

All entries of the registries are rehearsed, so that a new one is by itself. What waits is named here, with the reason.
"""

import os
from itertools import cycle

import pytest
import torch
from conftest import normal, randomise, seeded
from pretend import CUDA, rehearse

from cmlab.base.registry import EDITS, LOSSES, NETWORKS, SAMPLERS
from cmlab.data import ImageData, load_data
from cmlab.denoiser import CONSISTENCY, EDM, Denoiser
from cmlab.editing import edit_of, preset_mask, run_edit
from cmlab.methods.continuous import attach_uncertainty
from cmlab.methods.guidance import AutoGuidance, ClassifierFree
from cmlab.methods.search import sample_score
from cmlab.networks import MLPConfig, SongUNetConfig, UNetConfig, build_network
from cmlab.noise import karras_sigmas, sampling_sigmas
from cmlab.samplers import adds_noise, sample
from cmlab.training import fit
from cmlab.training.optimizers import OPTIMIZERS
from cmlab.training.trainer import PRECISIONS, Trainer

# One block of each kind is enough: the devices of a second are the same.
SMALL = {
    "mlp": MLPConfig(width=8, depth=1, freqs=2),
    "unet": UNetConfig(channels=8, mult=(1,), blocks=1, attention=(4,), heads=2, emb=8, dropout=0.1),
    "song": SongUNetConfig(channels=8, mult=(1,), blocks=1, attention=(4,), emb=8, dropout=0.1),
}
SHAPE = (3, 4, 4)
BY_ENGINE = ("ccd", "cct")  # they differentiate a gradient forwards


def small(kind: str, precond=EDM, classes: int = 0, drops_labels: bool = False) -> Denoiser:
    net = build_network(SMALL[kind], (2,) if kind == "mlp" else SHAPE, classes)
    return Denoiser(randomise(net), precond, (2,) if kind == "mlp" else SHAPE, classes, drops_labels)


def pictures() -> ImageData:
    return ImageData(normal(8, *SHAPE).float().clamp(-1, 1), torch.arange(8) % 3, ("a", "b", "c"), flip=True)


def training(name: str, kind: str, precision: str, **changes):
    """The waits of a first step and of a second."""

    def case(device):
        loss, data = LOSSES[name](), load_data("two-moons") if kind == "mlp" else pictures()
        model = small(kind, loss.precond, data.classes)
        if loss.needs_uncertainty:
            attach_uncertainty(model)
        teacher = small(kind, EDM, data.classes).to(CUDA).requires_grad_(False) if loss.needs_teacher else None
        before, ends = [p.dtype for p in model.parameters()], []

        def every(step: int) -> bool:
            ends.append(len(device.waits))  # before the yield, that reads
            return step == 2

        state = next(
            fit(model, data, loss, steps=64, batch=4, teacher=teacher, device=CUDA, precision=precision, every=every, **changes)
        )
        assert [p.dtype for p in state.ema.parameters()] == before and all(p.device == CUDA for p in state.ema.parameters())
        assert all(p.grad is not None and p.grad.device == CUDA for p in model.net.parameters() if p.requires_grad)
        return device.waits[ends[0] : ends[1]]

    return case


def trainings():
    """Every loss, every network, every precision and optimizer; where CMLAB_REHEARSAL=full each loss with each network.

    Precisions take turns: what they cast does not depend on the loss.
    """
    if os.environ.get("CMLAB_REHEARSAL") == "full":
        pairs = [(i + j, loss, kind) for i, loss in enumerate(LOSSES) for j, kind in enumerate(SMALL)]
        return {(loss, kind, p): training(loss, kind, p) for k, loss, kind in pairs for p in [list(PRECISIONS)[k % 3]]}
    cases = {(loss, "mlp", p): training(loss, "mlp", p) for loss, p in zip(LOSSES, cycle(PRECISIONS), strict=False)}
    cases |= {("edm", kind, p): training("edm", kind, p) for kind, p in (("unet", "bf16"), ("song", "fp16"))}
    for name in OPTIMIZERS:
        cases[name, "mlp", "float32"] = training("edm", "mlp", "float32", optimizer=name, clip=1.0, accumulate=2)
    return cases


@pytest.fixture(scope="module")
def trained():
    return rehearse(trainings())


@pytest.mark.parametrize("case", trainings(), ids="-".join)
def test_a_training_step_meets_one_device_and_waits_for_nothing(trained, case):
    if case[0] in BY_ENGINE:
        assert "hasPrimaryContext" in trained[case].error and "continuous.py" in trained[case].error  # so far it came
        pytest.skip("torch's engine, which its forward derivative calls, wants a real GPU")
    assert trained[case].error == ""
    assert trained[case].result == []


def test_every_network_is_rehearsed():
    assert set(SMALL) == set(NETWORKS)


def resumed(device):
    options = {"steps": 8, "batch": 4, "device": CUDA, "optimizer": "radam"}
    first = next(fit(small("mlp"), load_data("two-moons"), LOSSES["edm"](), every=2, **options))
    snapshot = first.snapshot()
    kept = snapshot._replace(tensors={k: torch.zeros(v.shape, dtype=v.dtype) for k, v in snapshot.tensors.items()})
    state = next(fit(small("mlp"), load_data("two-moons"), LOSSES["edm"](), resume=kept, every=2, **options))
    assert state.step == 4
    return {v.device.type for values in state.trainer.optimizer.state.values() for v in values.values()}


def noticed(device):
    trainer = Trainer(small("mlp").to(CUDA), LOSSES["edm"]())
    return trainer.skipped


def sampling(name: str, n: int):
    def case(device):
        consistency = SAMPLERS.record(name).kind == "consistency"
        n_steps = 1 if name == "onestep" else n
        sigmas = karras_sigmas(n_steps + 1)[:-1] if consistency else sampling_sigmas(n_steps)
        if SAMPLERS.record(name).kind == "distilled":
            sigmas = karras_sigmas(n_steps + 1)
        # A sampler sees no network, which edits and guidance have with convolutions: the smallest will do.
        model, label = small("mlp", CONSISTENCY if consistency else EDM, 3).to(CUDA).eval(), torch.arange(2).to(CUDA)
        x = normal(2, 2).to(CUDA)
        noise = seeded(0) if adds_noise(name, len(sigmas)) else None
        before, steps = len(device.waits), list(SAMPLERS[name](model, x, sigmas, label, noise=noise))
        assert len(steps) == n_steps and all(s.x.device == CUDA and s.x.dtype == torch.float64 for s in steps)
        assert [s.sigma for s in steps] == pytest.approx(sigmas[:n_steps].tolist())
        return device.waits[before:]

    return case


def editing(name: str):
    def case(device):
        options = {"free": preset_mask("centre", SHAPE)} if name == "inpaint" else {}
        edit = edit_of(name, normal(2, *SHAPE).clamp(-1, 1), [0, 1], **options)
        model, label = small("unet", CONSISTENCY, 3).to(CUDA).eval(), torch.arange(2).to(CUDA)
        before = len(device.waits)
        steps = list(run_edit(model, edit, [0, 1], label, CUDA))
        assert all(s.x.device == CUDA for s in steps)
        return len(steps), device.waits[before:]

    return case


def guided(kind):
    def case(device):
        model = small("unet", EDM, 3, drops_labels=True).to(CUDA).eval()
        guide = ClassifierFree(model, 2.0) if kind == "free" else AutoGuidance(model, model, 2.0)
        x, label = normal(2, *SHAPE).to(CUDA), torch.arange(2).to(CUDA)
        before = len(device.waits)
        list(SAMPLERS["heun"](guide, x, sampling_sigmas(3), label))
        return device.waits[before:]

    return case


def drawn(device):
    model = small("unet", EDM, 3).to(CUDA).eval()
    before = len(device.waits)
    out = sample(model, SHAPE, range(2), steps=4, label=[0, 1], device=CUDA)
    assert out.device == CUDA
    return device.waits[before:]


def scored(device):
    score = sample_score(small("mlp", CONSISTENCY).to(CUDA).eval(), lambda x: float(x.shape[0]), range(4), device=CUDA)
    before = len(device.waits)
    return score((80.0, 1.0)), device.waits[before:]


def others():
    return (
        {("sampler", name): sampling(name, 3) for name in SAMPLERS}
        | {("edit", name): editing(name) for name in EDITS}
        | {("guidance", kind): guided(kind) for kind in ("free", "auto")}
        | {("run", "resumed"): resumed, ("run", "drawn"): drawn, ("run", "scored"): scored, ("run", "noticed"): noticed}
    )


@pytest.fixture(scope="module")
def used():
    return rehearse(others())


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_waits_for_nothing(used, name):
    assert used["sampler", name].error == ""
    assert used["sampler", name].result == []


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_waits_only_for_its_mask_and_operator(used, name):
    outcome = used["edit", name]
    assert outcome.error == ""
    steps, waits = outcome.result
    # Picture and mask go over once, and whether all is free is read; the small matrices of an operator go over at each use.
    assert [w for w in waits if "editing.py" not in w] == []
    assert sum("read" in w for w in waits) <= steps + 1


@pytest.mark.parametrize("kind", ["free", "auto"])
def test_guidance_waits_for_nothing(used, kind):
    assert used["guidance", kind].error == ""
    assert used["guidance", kind].result == []


def test_what_is_drawn_is_looked_at_once(used):
    assert used["run", "drawn"].error == used["run", "scored"].error == ""
    assert [w.partition(":")[0] for w in used["run", "drawn"].result if "isfinite" in w] == ["read"]
    # Before the first step noise and labels go over.
    assert all(any(word in w for word in ("isfinite", "label", "draws.normal")) for w in used["run", "drawn"].result)
    assert len(used["run", "drawn"].result) <= 3
    assert used["run", "scored"].result[0] == 4.0


def test_a_run_resumes_with_its_counts_on_the_device(used):
    assert used["run", "resumed"].error == ""
    assert used["run", "resumed"].result == {"cuda"}
    assert used["run", "noticed"].result == 0


def test_waits_are_seen():
    """The rehearsal's own test: each kind of wait, and two devices in one operation."""

    def reads(device):
        x = torch.zeros(3).to(CUDA, non_blocking=True)
        _ = bool(x.isfinite().all()), float(x[0]), x.cpu(), torch.ones(2).to(CUDA)
        return [w.partition(":")[0] for w in device.waits]

    def mixes(device):
        return torch.zeros(3).to(CUDA) + torch.zeros(3)

    def counts(device):
        x = torch.zeros(3).to(CUDA)
        return x[x > 0]

    seen = rehearse({"reads": reads, "mixes": mixes, "counts": counts})
    assert seen["reads"].result == ["read", "read", "to the host", "blocking copy"]
    assert "cuda" in seen["mixes"].error
    assert "depends on numbers" in seen["counts"].error


def test_a_network_of_which_gradients_are_known():
    """The walk over the graph gives what torch's engine gives."""
    from pretend import backward

    model = small("unet").eval()
    x, sigma = normal(2, *SHAPE).float(), torch.tensor([0.5, 2.0])
    (model(x, sigma) - x).square().sum().backward()
    wanted = [p.grad for p in model.parameters()]
    model.zero_grad()
    backward((model(x, sigma) - x).square().sum())
    for p, grad in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(p.grad, grad)
