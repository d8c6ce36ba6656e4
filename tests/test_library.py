"""What users of the library pass at its doors: a wrong thing gets words that say what is meant, a right one works."""

# pyright: reportArgumentType=false
# Wrong types are what is tried here.

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import tiny
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cmlab
from cmlab import EDM, Denoiser, EDMLoss, ImageData, PixelData, Preconditioning, Step, fit, load, load_data, sample, save
from cmlab.base.registry import SAMPLERS

BLACK = torch.full((4, 1, 8, 8), -1.0)


class Own(nn.Module):
    """A network without a configuration."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(3, 2)

    def forward(self, x, c_noise, label=None):
        return self.last(torch.cat([x, c_noise[:, None]], 1))


class OwnScalings(Preconditioning):
    def __call__(self, sigma):
        return EDM(sigma)


class Half:
    """Scalings that are no Preconditioning."""

    consistency, levels = False, (0.0, 1e9)

    def __call__(self, sigma):
        return EDM(sigma)


def trained(*args, **options):
    return list(fit(*args, **({"steps": 2, "batch": 8} | options)))[-1]


def test_an_own_network_and_own_scalings_are_trained_and_sampled():
    model = Denoiser(Own(), OwnScalings(), (2,))
    assert model.config is None
    assert np.isfinite(trained(model, load_data("two-moons"), EDMLoss()).loss)
    assert sample(model, (2,), range(3)).shape == (3, 2)


def test_a_network_without_a_configuration_cannot_be_saved_and_says_so(tmp_path):
    with pytest.raises(ValueError, match="this network has no config"):
        save(tmp_path / "a.safetensors", Denoiser(Own(), EDM, (2,)))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Denoiser(Own(), Half(), (2,)), "has no round"),
        (lambda: Denoiser(Own(), lambda sigma: EDM(sigma), (2,)), "derive its class from cmlab.Preconditioning"),
        (lambda: Denoiser(Own(), type(EDM), (2,)), "derive its class"),
        (lambda: Denoiser(Own, EDM, (2,)), "net is a network"),
        (lambda: Denoiser(Own(), EDM, 2), "shape is that of one sample"),
        (lambda: Denoiser(Own(), EDM, (2.5,)), "shape is that of one sample"),
        (lambda: Denoiser(Own(), EDM, (2,), -1), "classes is their number"),
        (lambda: tiny()(np.zeros((3, 2)), 1.0), "samples are a tensor, got ndarray"),
        (lambda: tiny()([[0.0, 0.0]], 1.0), "samples are a tensor, got list"),
        (lambda: trained(tiny(), DataLoader(TensorDataset(torch.zeros(4, 2))), EDMLoss()), "a DataLoader does not"),
        (lambda: trained(tiny(), torch.zeros(4, 2), EDMLoss()), "a Tensor does not"),
        (lambda: trained(tiny(), "two-moons", EDMLoss()), "a str does not"),
        (lambda: trained(tiny(), load_data("two-moons"), EDMLoss), r"make one, \w+\(\)"),
        (lambda: trained(tiny(), load_data("two-moons"), nn.MSELoss()), "such as cmlab.EDMLoss"),
        (lambda: trained(Own, load_data("two-moons"), EDMLoss()), "model is a network with its scalings"),
        (lambda: trained(tiny(), load_data("two-moons"), EDMLoss(), {"steps": 2}), "config is a TrainConfig"),
        (lambda: trained(tiny().half(), load_data("two-moons"), EDMLoss()), r"train model.float\(\)"),
        (lambda: ImageData(BLACK.to(torch.uint8), None), "PixelData"),
        (lambda: ImageData(BLACK * 0 + 255, None), r"127.5"),
        (lambda: ImageData(BLACK[:, 0], None), r"\(N, C, H, W\)"),
        (lambda: ImageData(BLACK[:0], None), r"\(N, C, H, W\)"),
        (lambda: ImageData(BLACK.numpy(), None), "torch.as_tensor"),
        (lambda: ImageData(BLACK, [0, 1, 2, 3]), "got list"),
        (lambda: ImageData(BLACK, torch.arange(4.0)), "int64"),
        (lambda: ImageData(BLACK, torch.arange(3)), "one class number per image"),
        (lambda: ImageData(BLACK, torch.arange(4), ("a", "b", "c")), "below 3: got 3"),
        (lambda: ImageData(BLACK, torch.arange(4) - 1), "got -1"),
        (lambda: PixelData(np.zeros((4, 1, 8, 8)), None), "uint8"),
        (lambda: PixelData(np.zeros((4, 8, 8), np.uint8), None), "uint8"),
    ],
)
def test_what_does_not_fit_is_said_in_words(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("kind", [ImageData, PixelData])
def test_labels_without_names_are_classes_too(kind):
    images = BLACK if kind is ImageData else np.zeros((4, 1, 8, 8), np.uint8)
    data = kind(images, torch.tensor([0, 2, 1, 1]))
    assert (data.classes, data.class_names) == (3, ("0", "1", "2"))


def test_pixels_of_0_to_1_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        ImageData((BLACK + 1).index_fill(0, torch.tensor([0]), 1.0), None)
    assert "2 * x0 - 1" in caplog.text


def test_images_in_double_precision_are_trained_in_single():
    assert ImageData(BLACK.double(), None).batch(2, [1, 2])[0].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["two-moons-edm", "digits-edm"])
def test_half_models_make_nearly_the_samples_of_whole_ones(name, dtype):
    whole, half = load(name)[0], load(name)[0].to(dtype)
    label = 3 if whole.classes else None
    a, b = (sample(model, model.shape, range(4), steps=4, label=label) for model in (whole, half))
    assert (a - b).abs().mean() < 0.05 * a.abs().mean()


def test_a_number_is_one_seed_and_a_range_is_as_many_samples():
    model = tiny()
    torch.testing.assert_close(sample(model, (2,), 16), sample(model, (2,), range(17))[16:])


def test_samples_have_no_gradient_whatever_the_sampler():
    @SAMPLERS.register("with-gradients", kind="ode")
    def with_gradients(denoise, x, sigmas, label=None, *, noise=None, project=None):
        x0_hat = denoise(x, sigmas[0])
        yield Step(0, x0_hat, x0_hat, float(sigmas[0]), 0.0, 1)

    try:
        for name in [*SAMPLERS.of_kind("ode"), "onestep"]:
            assert not sample(tiny(), (2,), range(2), name, 1 if name == "onestep" else 3).requires_grad, name
    finally:
        del SAMPLERS._records["with-gradients"]


def test_a_room_is_reached_after_import_cmlab():
    names = ["plots", "metrics", "convert", "theory", "teach", "trainer", "presets"]
    code = f"""
import sys
for name in {names}:
    for module in [module for module in sys.modules if module.split(".")[0] == "cmlab"]:
        del sys.modules[module]  # as in a new process, without another second for torch
    import cmlab
    assert getattr(cmlab, name).__name__.startswith("cmlab."), name"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["ImageData", "PixelData", "HalfLife", "TrainConfig", "Trainer", "Preconditioning", "cd", "ict"])
def test_a_name_is_on_top(name):
    assert callable(getattr(cmlab, name)) and name in cmlab.__all__
