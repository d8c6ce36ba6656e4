"""The networks: what every registered one must do, and what the U-Net alone does."""

from dataclasses import replace

import pytest
import torch
from conftest import TINY, normal, randomise

from cmlab.networks import NETWORKS, MLPConfig, UNetConfig, build_network, network_name


def build(kind: str, classes: int = 0, dtype: torch.dtype = torch.float32, randomised: bool = True, **changes):
    config, shape = TINY[kind]
    net = build_network(replace(config, **changes), shape, classes)
    return (randomise(net) if randomised else net).to(dtype)


def inputs(kind: str, n: int = 3, dtype: torch.dtype = torch.float32):
    return normal(n, *TINY[kind][1], dtype=dtype), torch.linspace(-1.5, 1.1, n, dtype=dtype)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_new_network_returns_zero(kind):
    assert torch.equal(build(kind, randomised=False)(*inputs(kind)), torch.zeros(3, *TINY[kind][1]))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("batch", [1, 2, 7])
def test_shape_and_independence_of_the_batch(kind, batch):
    net, (x, c_noise) = build(kind).eval(), inputs(kind, 7)
    out = net(x[:batch], c_noise[:batch])
    assert out.shape == x[:batch].shape
    assert torch.allclose(out[:1], net(x[:1], c_noise[:1]), atol=1e-6)  # float32 algorithms differ by batch size


@pytest.mark.parametrize("kind", NETWORKS)
def test_noise_level_and_input_matter(kind):
    net, (x, c_noise) = build(kind), inputs(kind)
    with torch.no_grad():
        base = net(x, c_noise)
        assert float((net(x, c_noise + 0.3) - base).abs().max()) > 1e-3
        assert float((net(x + 0.3, c_noise) - base).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", NETWORKS)
def test_labels_are_optional_and_matter(kind):
    net, (x, c_noise) = build(kind, classes=4), inputs(kind)
    answers = [net(x, c_noise, label) for label in (None, torch.tensor([0, 1, 2]), torch.tensor([3, 1, 2]))]
    assert not torch.allclose(answers[0], answers[1])
    assert not torch.allclose(answers[1][0], answers[2][0])
    assert torch.allclose(answers[1][1:], answers[2][1:], atol=1e-6)


@pytest.mark.parametrize("kind", NETWORKS)
def test_jvp_equals_central_differences(kind):
    net = build(kind, dtype=torch.float64)
    x, c_noise = inputs(kind, dtype=torch.float64)
    v, w = normal(*x.shape, seed=1), normal(3, seed=2)
    tangent = torch.func.jvp(lambda a, b: net(a, b, None), (x, c_noise), (v, w))[1]
    h = 1e-5  # truncation h^2 and rounding 1e-16 / h balance near 1e-10
    difference = (net(x + h * v, c_noise + h * w) - net(x - h * v, c_noise - h * w)) / (2 * h)
    assert float((tangent - difference).norm() / difference.norm()) < 1e-6


@pytest.mark.parametrize("kind", NETWORKS)
def test_float64_is_float64_throughout(kind):
    # A single float32 operation inside would leave 1e-7 instead of the 1e-13 of rounding.
    net, (x, c_noise) = build(kind, dtype=torch.float64), inputs(kind, dtype=torch.float64)
    direction = normal(*x.shape, seed=1)
    step = [(net(x + h * direction, c_noise) - net(x, c_noise)) / h for h in (1e-7, 2e-7)]
    assert float((step[0] - step[1]).norm() / step[0].norm()) < 1e-5


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_weight_gets_a_gradient(kind):
    net, (x, c_noise) = build(kind, classes=3), inputs(kind)
    net(x, c_noise, torch.tensor([0, 1, 2])).square().sum().backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().max() > 0)]
    assert silent == []


@pytest.mark.parametrize("kind", NETWORKS)
def test_dropout_acts_in_training_alone(kind):
    net, (x, c_noise) = build(kind, dropout=0.5), inputs(kind)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        assert not torch.equal(net.train()(x, c_noise), net(x, c_noise))
        assert torch.equal(net.eval()(x, c_noise), net(x, c_noise))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("mlp", {"width": 16}),
        ("mlp", {"depth": 1}),
        ("mlp", {"freqs": 2}),
        ("unet", {"channels": 16}),
        ("unet", {"mult": (1, 1)}),
        ("unet", {"blocks": 2}),
        ("unet", {"attention": ()}),
        ("unet", {"attention": (8,)}),
        ("unet", {"heads": 1}),
        ("unet", {"emb": 0}),
        ("unet", {"group": 2}),
        ("unet", {"time_scale": 1.0}),
    ],
)
def test_every_setting_changes_the_network(kind, change):
    x, c_noise = inputs(kind)
    assert not torch.allclose(build(kind)(x, c_noise), build(kind, **change)(x, c_noise))


@pytest.mark.parametrize("kind", NETWORKS)
def test_network_name_inverts_the_registry(kind):
    assert network_name(TINY[kind][0]) == kind


def test_an_unregistered_configuration_is_an_error():
    with pytest.raises(ValueError, match="mlp, unet"):
        network_name(object())  # type: ignore[arg-type]


def test_mlp_takes_samples_of_any_shape():
    net = build_network(MLPConfig(8, 1, 2), (3, 4, 4))
    assert net(torch.zeros(2, 3, 4, 4), torch.zeros(2)).shape == (2, 3, 4, 4)


def test_unet_takes_images_that_are_not_square():
    net = randomise(build_network(UNetConfig(8, (1, 2), emb=8), (1, 8, 12)))
    assert net(torch.ones(2, 1, 8, 12), torch.zeros(2)).shape == (2, 1, 8, 12)


@pytest.mark.parametrize("shape", [(3, 6, 8), (3, 8, 6), (2,), (3, 7, 7)])
def test_unet_refuses_sides_that_do_not_halve(shape):
    with pytest.raises(ValueError, match="sides divide by 4"):
        build_network(UNetConfig(8, (1, 1, 1)), shape)


def test_unet_refuses_channels_that_do_not_group():
    with pytest.raises(ValueError, match="multiple of group"):
        build_network(UNetConfig(10, group=4), (3, 8, 8))


def test_unet_runs_under_autocast():
    net, (x, c_noise) = build("unet"), inputs("unet")
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x, c_noise)
    # bfloat16 keeps 8 bits: 0.4 % per operation, a few per cent through the depth.
    assert float((low.float() - net(x, c_noise)).norm() / net(x, c_noise).norm()) < 0.1


def test_unet_module_names_are_those_of_the_published_checkpoints():
    names = set(build("unet", classes=3).state_dict())
    assert {
        "time_embed.0.weight",
        "label_emb.weight",
        "input_blocks.0.0.weight",
        "input_blocks.1.0.in_layers.2.weight",
        "input_blocks.1.0.emb_layers.1.weight",
        "input_blocks.1.0.out_layers.3.weight",
        "middle_block.1.qkv.weight",
        "middle_block.1.proj_out.weight",
        "output_blocks.0.0.skip_connection.weight",
        "out.2.weight",
    } <= names
