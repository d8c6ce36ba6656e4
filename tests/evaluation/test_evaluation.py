"""The measures themselves: exact cases before any model is judged by them."""

import runpy
from pathlib import Path

import pytest
import torch
from conftest import normal, seeded, tiny

from cmlab import sample
from cmlab.data import load_images, load_toy
from cmlab.data.names import class_names_of
from cmlab.evaluation import is_consistency, paired_rms, sliced_wasserstein, toy_report
from cmlab.evaluation.classifier import load_classifier, resolve_classifier, to_pixels
from cmlab.formats import checkpoints
from cmlab.methods.classify import likeliest_label
from cmlab.oracle import FiniteData
from cmlab.training.presets import get_preset

JUDGE = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "digits.py"))
digit_accuracy, digit_classifier, digit_features = (JUDGE[f"digit_{what}"] for what in ("accuracy", "classifier", "features"))


def test_distance_of_a_set_to_itself_is_zero_in_any_order():
    x = normal(50, 2)
    assert sliced_wasserstein(x, x[torch.randperm(50, generator=seeded())]) < 1e-15  # rounding of the projections


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_distance_of_a_shift_is_its_length_over_root_d(dim):
    # For a shift v every direction u gives |u.v|; the mean of its square over the sphere is |v|^2 / d.
    x, shift = normal(40, dim), torch.zeros(dim, dtype=torch.float64)
    shift[0] = 3.0
    assert sliced_wasserstein(x, x + shift, projections=20_000) == pytest.approx(3 / dim**0.5, rel=0.02)


def test_distance_of_two_points_is_exact():
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[3.0], [0.0]])
    assert sliced_wasserstein(a, b) == pytest.approx(2**0.5)  # 0-0 and 1-3: sqrt((0 + 4) / 2)


def test_sets_of_different_size_are_an_error():
    with pytest.raises(ValueError, match="same shape"):
        sliced_wasserstein(normal(3, 2), normal(4, 2))


def test_paired_rms_of_a_constant_difference():
    x = normal(5, 3, 4, 4)
    assert paired_rms(x, x - 0.25) == pytest.approx(0.25)


def test_the_exact_score_beats_an_untrained_model():
    report = toy_report(tiny(), "8gaussians", n=500)
    assert report["exact score, 40 Heun steps"] < 0.1 < report["1 step"]
    assert set(toy_report(tiny(), "8gaussians", teacher=load_toy("8gaussians").oracle, n=50)) - set(report) == {
        "paired rms to the teacher"
    }


def test_a_diffusion_model_is_measured_in_40_heun_steps():
    from cmlab.denoiser import EDM

    model = tiny(precond=EDM)
    assert not is_consistency(model)
    assert "40 Heun steps" in toy_report(model, "two-moons", n=50)


def test_digit_features_do_not_see_contrast():
    x = load_images("digits").x0[:5]
    assert torch.allclose(torch.from_numpy(digit_features(x)), torch.from_numpy(digit_features(0.3 * x - 0.2)), atol=1e-6)


@pytest.mark.parametrize("data", ["digits", "digits-color"])
def test_classifier_knows_real_digits(data):
    assert digit_classifier(data)[1] > 0.98  # .997 and .996 measured


class RightDigits(torch.nn.Module):
    """Stands in for a model: an exact denoiser of the digits of the class that is asked for."""

    shape, classes = (1, 8, 8), 10

    def __init__(self):
        super().__init__()
        data = load_images("digits")
        self.oracles = [FiniteData(data.x0[data.label == k][:20]) for k in range(10)]

    def forward(self, x, sigma, label):
        out = torch.empty_like(x)
        for k, oracle in enumerate(self.oracles):
            rows = label == k
            if rows.any():
                out[rows] = oracle(x[rows], sigma.expand(len(x))[rows] if sigma.ndim else sigma)
        return out


def test_accuracy_of_perfect_and_of_mislabelled_samples():
    model = RightDigits()
    assert digit_accuracy(model, "digits", "heun", 8, n=60) >= 0.98  # type: ignore[arg-type]
    wrong = RightDigits()
    wrong.oracles = wrong.oracles[1:] + wrong.oracles[:1]
    assert digit_accuracy(wrong, "digits", "heun", 8, n=60) <= 0.02  # type: ignore[arg-type]


def test_likeliest_label_is_the_class_that_restores_best():
    data = load_images("digits")
    assert data.label is not None
    pick = torch.cat([(data.label == k).nonzero()[20:22, 0] for k in range(10)])  # pictures that the oracles do not hold
    guess = likeliest_label(RightDigits(), data.x0[pick], 10)
    assert (guess == data.label[pick]).double().mean() >= 0.9
    with pytest.raises(ValueError, match="classes"):
        likeliest_label(RightDigits(), data.x0[:1], 0)


@pytest.mark.parametrize("name", checkpoints.pretrained_names())
def test_bundled_checkpoint_says_how_it_was_made_and_draws_what_it_claims(name):
    model, meta = checkpoints.load(name)
    about = meta["about"]
    assert about["command"].startswith(f"cmlab train {name}") and about["preset"] == name and about["seconds"] > 0
    data = get_preset(name).data
    sampler, steps = ("multistep", 1) if is_consistency(model) else ("heun", 18)
    if len(model.shape) == 1:
        key = "1 step" if is_consistency(model) else "40 Heun steps"
        # 2,000 points instead of 20,000: sampling noise alone is .03 then
        assert toy_report(model, data, n=2000)[key] < about["quality"][key] + 0.05
    elif data.startswith(("cifar10:", "mnist")):
        loaded = load_classifier(resolve_classifier(data.partition(":")[0]))
        label = torch.arange(24) % model.classes
        x = sample(model, model.shape, range(24), sampler, steps, label=label)
        asked = loaded.numbers(class_names_of(about, model.classes, data))
        assert asked is not None
        share = (loaded.model(to_pixels(x))[1].argmax(1) == asked[label]).double().mean()
        # one standard error of a share of .66 among 24 is .10, of .95 it is .04
        assert share > about["quality"][f"class accuracy, {sampler} {steps}"] - 0.2
    else:
        key = "1 step" if is_consistency(model) else "18 Heun steps"
        # 200 samples: one standard error of a share of .95 is .015
        assert digit_accuracy(model, data, sampler, steps, n=200) > about["quality"][key] - 0.06


def test_bundled_checkpoints_stay_small():
    sizes = {f.name: f.stat().st_size for f in checkpoints.PRETRAINED.glob("*")}
    assert sum(size for name, size in sizes.items() if not name.startswith(("cifar10", "mnist"))) < 3_000_000
    assert max(sizes.values()) < 12_000_000 and sum(sizes.values()) < 30_000_000
