"""What a preset will cost is counted, not remembered: against the operations of a real loss."""

from dataclasses import replace

import pytest
import torch
from conftest import seeded
from torch.utils.flop_counter import FlopCounterMode

from cmlab.data import load_data
from cmlab.denoiser import Denoiser
from cmlab.networks import UNetConfig, build_network
from cmlab.training.cost import cost, forward_flops, sample_shape
from cmlab.training.presets import PRESETS, get_preset

NET = UNetConfig(channels=8, mult=(1, 2), blocks=1)


@pytest.mark.parametrize("name", ["digits-edm", "digits-cd", "digits-ct", "digits-ect", "digits-pd"])
def test_a_step_computes_what_the_count_says(name):
    preset = replace(get_preset(name), network=NET)
    model, teacher = (
        Denoiser(build_network(NET, (1, 8, 8), 0), get_preset(of).loss.precond, (1, 8, 8), 0) for of in (name, "digits-edm")
    )
    teacher.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        x0 = torch.zeros(4, 1, 8, 8)
        out = preset.loss(
            model,
            x0,
            draws=seeded(),
            progress=0.5,
            target=model if preset.loss.needs_target else None,
            teacher=teacher if preset.loss.needs_teacher else None,
        )
        out.loss.sum().backward()
    ratio = counter.get_total_flops() / (4 * forward_flops(preset, (1, 8, 8)))
    assert ratio == pytest.approx(preset.loss.evaluations, rel=0.05)  # the first layer needs no gradient of its input


@pytest.mark.parametrize("name", ["rings-sct", "digits-edm", "cifar10-ict", "cifar10-ect", "cifar10-small-edm", "imagenet64-cd"])
def test_operations_are_those_that_torch_counts(name):
    preset = get_preset(name)
    shape = sample_shape(preset)
    assert shape is not None
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        build_network(preset.network, shape, 0).eval()(torch.zeros(1, *shape), torch.zeros(1))
    assert forward_flops(preset, shape) == counter.get_total_flops()


def test_published_sizes():
    # EDM's networks at 32 x 32: 21 billion multiply-adds; ADM's at 64 x 64: 104 (Dhariwal & Nichol, 2021, say 103.9 of theirs).
    assert forward_flops(get_preset("cifar10-edm-ddpmpp"), (3, 32, 32)) == pytest.approx(2 * 21.2e9, rel=0.01)
    assert forward_flops(get_preset("imagenet64-cd"), (3, 64, 64)) == pytest.approx(2 * 109.7e9, rel=0.01)


def test_one_line_for_every_preset():
    assert cost(get_preset("cifar10-cd")).startswith("cost: 410 M samples x 6 evaluations of 42.8 G operations = 105 E")
    assert "without the perceptual distance" in cost(get_preset("cifar10-cd"))
    assert "GPU" not in cost(get_preset("digits-edm")) and "GPU" not in cost(get_preset("two-moons-cd"))
    assert cost(replace(get_preset("digits-edm"), data="somewhere/else")) == ""
    assert all(sample_shape(preset) for preset in PRESETS.values())
    assert all(sample_shape(get_preset(f"{data}-edm")) == load_data(data).shape for data in ("rings", "digits", "digits-color"))
