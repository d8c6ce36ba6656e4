"""The networks: what every registered one must do, and what the U-Nets alone do."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from conftest import TINY, normal, randomise

from cmlab.networks import NETWORKS, MLPConfig, SongUNetConfig, UNetConfig, build_network, network_name
from cmlab.networks.adm import Attention
from cmlab.networks.attention import attend, attention, in_forward_mode
from cmlab.networks.layers import Block, Norm, compile_blocks, orders_by_pixel, positional_features, time_features
from cmlab.networks.song import Conv2d

# Every branch of every network, with attention wherever there can be some.
NCSN = {"embedding": "fourier", "noise_mult": 2, "fir": (1, 3, 3, 1)}
VARIANTS = {
    "mlp": ("mlp", {}),
    "unet": ("unet", {"attention": (8, 4)}),
    "unet-added": ("unet", {"scale_shift": False, "resample": "conv", "heads_up": 4, "group": 2}),
    "unet-pooled": ("unet", {"resample": "pool", "mult": (0.5, 1), "head_channels": 4, "heads": 1, "group": 1, "max_groups": 4}),
    "unet-patches": ("unet", {"patch": 2, "attention": (4,)}),
    "unet-nvlabs": ("unet", {"head_channels": 16, "heads": 1, "max_groups": 32, "time_scale": 1.0, "float32_freqs": True}),
    "song": ("song", {}),
    "song-residual": ("song", {"encoder": "residual", **NCSN}),
    "song-skip": ("song", {"encoder": "skip", "decoder": "skip", "heads": 2, **NCSN}),
}


def build(kind: str, classes: int = 0, dtype: torch.dtype = torch.float32, randomised: bool = True, **changes):
    config, shape = TINY[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
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
        assert float((net(x, c_noise + 0.3) - base).abs().max()) > 1e-4
        assert float((net(x + 0.3, c_noise) - base).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", NETWORKS)
def test_labels_are_optional_and_matter(kind):
    net, (x, c_noise) = build(kind, classes=4), inputs(kind)
    answers = [net(x, c_noise, label) for label in (None, torch.tensor([0, 1, 2]), torch.tensor([3, 1, 2]))]
    assert not torch.allclose(answers[0], answers[1])
    assert not torch.allclose(answers[1][0], answers[2][0])
    assert torch.allclose(answers[1][1:], answers[2][1:], atol=1e-6)


@pytest.mark.parametrize("kind", NETWORKS)
def test_label_minus_one_is_no_class(kind):
    net, (x, c_noise) = build(kind, classes=4), inputs(kind)
    some, none = torch.tensor([2, -1, 0]), torch.tensor([-1, -1, -1])
    base, without, mixed = net(x, c_noise), net(x, c_noise, none), net(x, c_noise, some)
    assert torch.equal(without, base)
    assert torch.allclose(mixed[1], base[1], atol=1e-6)
    assert not torch.allclose(mixed[0], base[0], atol=1e-3)


# --- differentiation -----------------------------------------------------------------------------------------------------


def differences(f, h: float):
    """The derivative at 0 of f of a number, to fourth order in h."""
    return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12 * h)


@pytest.mark.parametrize("variant", VARIANTS)
def test_jvp_equals_central_differences(variant):
    kind, changes = VARIANTS[variant]
    net = build(kind, 3, torch.float64, **changes)
    x, c_noise = inputs(kind, dtype=torch.float64)
    label, v, w = torch.tensor([0, -1, 2]), normal(*x.shape, seed=1), normal(3, seed=2)
    out, tangent = torch.func.jvp(lambda a, b: net(a, b, label), (x, c_noise), (v, w))[:2]
    with torch.no_grad():
        assert torch.allclose(out, net(x, c_noise, label), rtol=0, atol=1e-12)
        difference = differences(lambda h: net(x + h * v, c_noise + h * w, label), 1e-4)
    assert float((tangent.detach() - difference).norm() / difference.norm()) < 1e-8
    with forward_ad.dual_level():
        dual = net(forward_ad.make_dual(x, v), forward_ad.make_dual(c_noise, w), label)
        again = forward_ad.unpack_dual(dual).tangent
    assert again is not None and torch.allclose(again, tangent, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradient_of_a_jvp_equals_central_differences(variant):
    # What the continuous-time losses ask for: reverse mode over forward mode.
    kind, changes = VARIANTS[variant]
    net = build(kind, 3, torch.float64, **changes)
    x, c_noise = inputs(kind, dtype=torch.float64)
    label, v, w, u = torch.tensor([0, -1, 2]), normal(*x.shape, seed=1), normal(3, seed=2), normal(*x.shape, seed=3)

    def projected():
        return (torch.func.jvp(lambda a, b: net(a, b, label), (x, c_noise), (v, w))[1] * u).sum()

    weights = list(net.parameters())
    steps = [normal(*p.shape, seed=i) for i, p in enumerate(weights)]
    grads = torch.autograd.grad(projected(), weights, allow_unused=True)
    slope = sum(float((g * s).sum()) for g, s in zip(grads, steps, strict=True) if g is not None)

    def moved(h):
        with torch.no_grad():
            for p, s in zip(weights, steps, strict=True):
                p.add_(s, alpha=h)
            value = float(projected())
            for p, s in zip(weights, steps, strict=True):
                p.sub_(s, alpha=h)
        return value

    difference = differences(moved, 1e-5)
    assert abs(slope - difference) < 1e-6 * abs(difference)


def test_attention_is_fused_but_for_forward_mode(monkeypatch):
    q, k, v = (normal(2, 3, 5, 4, seed=i) for i in range(3))
    want = ((q @ k.transpose(-1, -2)) / 2).softmax(-1) @ v
    calls = []
    fused = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a: calls.append(in_forward_mode()) or fused(*a))
    assert torch.allclose(attention(q, k, v), want, atol=1e-14)
    assert calls == [False]
    assert torch.allclose(torch.func.jvp(lambda a: attention(a, k, v), (q,), (q,))[0], want, atol=1e-14)
    assert torch.allclose(
        torch.func.jacfwd(lambda a: attention(a, k, v).sum())(q), torch.func.grad(lambda a: attention(a, k, v).sum())(q)
    )
    assert calls[1:] == [False]
    assert not in_forward_mode()


def test_attention_disappears_below_one_head():
    net = build("unet", attention=(8, 4), mult=(1, 2, 4), head_channels=16, heads=1)  # widths 8, 16 and 32
    heads = {name: m.heads for name, m in net.named_modules() if isinstance(m, Attention)}
    assert heads == {"input_blocks.3.1": 1, "middle_block.1": 2, "output_blocks.2.1": 1, "output_blocks.3.1": 1}


def test_attention_reads_both_channel_orders():
    q, k, v = (normal(2, 3 * 4, 3, 5, seed=i) for i in range(3))  # 3 heads of 4 channels
    flat = [t.reshape(2, 3, 4, 15).transpose(2, 3) for t in (q, k, v)]
    want = attention(*flat).transpose(2, 3).reshape(2, 12, 3, 5)
    assert torch.allclose(attend(torch.cat([q, k, v], 1), 3), want)
    assert torch.allclose(attend(torch.stack([q, k, v], 2).flatten(1, 2), 3, interleaved=True), want)


@pytest.mark.parametrize("kind", NETWORKS)
def test_float64_is_float64_throughout(kind):
    # A single float32 operation inside would leave 1e-7 instead of the 1e-13 of rounding.
    net, (x, c_noise) = build(kind, dtype=torch.float64), inputs(kind, dtype=torch.float64)
    direction = normal(*x.shape, seed=1)
    with torch.no_grad():
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


CHANGES = {
    "mlp": [{"width": 16}, {"depth": 1}, {"freqs": 2}, {"time_scale": 2.0}],
    "unet": [
        {"channels": 16},
        {"mult": (1, 1)},
        {"mult": (0.5, 1)},
        {"blocks": 2},
        {"attention": ()},
        {"attention": (8,)},
        {"heads": 1},
        {"heads_up": 4},
        {"heads": 1, "head_channels": 16},
        {"emb": 0},
        {"group": 2},
        {"max_groups": 1},
        {"time_scale": 1.0},
        {"scale_shift": False},
        {"resample": "conv"},
        {"resample": "pool"},
        {"patch": 2},
        {"variance": True},
    ],
    "song": [
        {"channels": 16},
        {"mult": (1, 1)},
        {"blocks": 2},
        {"attention": ()},
        {"attention": (8,)},
        {"heads": 2},
        {"emb": 0},
        {"noise_mult": 2},
        {"embedding": "fourier"},
        {"embedding": "fourier", "fourier_scale": 0.02},
        {"encoder": "skip"},
        {"encoder": "residual"},
        {"decoder": "skip"},
        {"fir": (1, 3, 3, 1)},
        {"variance": True},
    ],
}
# These have tests of their own: they act in training, with augmentation labels, or in float64 alone.
APART = {"dropout", "recompute", "augment", "float32_freqs"}


@pytest.mark.parametrize(("kind", "change"), [(kind, change) for kind, changes in CHANGES.items() for change in changes])
def test_every_setting_changes_the_network(kind, change):
    x, c_noise = inputs(kind)
    with torch.no_grad():
        base, other = build(kind)(x, c_noise), build(kind, **change)(x, c_noise)
    assert base.shape != other.shape or not torch.allclose(base, other)
    if change == {"variance": True}:
        assert other.shape[1] == 2 * base.shape[1]


@pytest.mark.parametrize("kind", NETWORKS)
def test_no_setting_is_without_a_test(kind):
    names = {f.name for f in fields(type(TINY[kind][0]))}
    assert names - APART == {name for change in CHANGES[kind] for name in change}


@pytest.mark.parametrize("kind", NETWORKS)
def test_network_name_inverts_the_registry(kind):
    assert network_name(TINY[kind][0]) == kind


def test_an_unregistered_configuration_is_an_error():
    with pytest.raises(ValueError, match="unet, mlp, song"):
        network_name(object())  # type: ignore[arg-type]


def test_mlp_takes_samples_of_any_shape():
    net = build_network(MLPConfig(8, 1, 2), (3, 4, 4))
    assert net(torch.zeros(2, 3, 4, 4), torch.zeros(2)).shape == (2, 3, 4, 4)


def test_unet_takes_images_that_are_not_square():
    net = randomise(build_network(UNetConfig(8, (1, 2), emb=8), (1, 8, 12)))
    assert net(torch.ones(2, 1, 8, 12), torch.zeros(2)).shape == (2, 1, 8, 12)


def test_a_net_of_patches_is_the_net_of_their_gathered_pixels():
    inner, outer = (build_network(UNetConfig(8, patch=patch), shape) for patch, shape in ((1, (12, 4, 6)), (2, (3, 8, 12))))
    outer.load_state_dict(randomise(inner).state_dict())
    x, c_noise = normal(2, 3, 8, 12, dtype=torch.float32), torch.tensor([-1.0, 0.5])
    gathered = torch.stack([x[:, c, i::2, j::2] for c in range(3) for i in range(2) for j in range(2)], 1)
    expected = inner(gathered, c_noise)
    found = outer(x, c_noise)
    for k, (c, i, j) in enumerate((c, i, j) for c in range(3) for i in range(2) for j in range(2)):
        assert torch.allclose(found[:, c, i::2, j::2], expected[:, k], atol=1e-6)


@pytest.mark.parametrize("config", [UNetConfig(8, (1, 1, 1)), UNetConfig(8, (1, 1), patch=2), SongUNetConfig(8, (1, 1, 1))])
@pytest.mark.parametrize("shape", [(3, 6, 6), (2,), (3, 7, 7)])
def test_unets_refuse_sides_that_do_not_halve(config, shape):
    with pytest.raises(ValueError, match="sides divide by 4"):
        build_network(config, shape)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (UNetConfig(11, group=4), "11 channels do not divide into 2 equal"),
        (UNetConfig(2, group=4), "change channels or group"),
        (UNetConfig(24, group=1, max_groups=32, mult=(1, 2)), "48 channels do not divide into 32 equal"),
        (UNetConfig(8, blocks=0), "at least 1"),
        (UNetConfig(8, heads=3), "3 attention heads"),
        (UNetConfig(8, patch=0), "at least 1"),
        (UNetConfig(8, heads=2, head_channels=4), "either heads"),
        (UNetConfig(8, resample="fir"), "block, conv, pool"),
        (UNetConfig(8, augment=-1), "negative"),
        (SongUNetConfig(9), "even and at least 4"),
        (SongUNetConfig(2), "even and at least 4"),
        (SongUNetConfig(14), "14 channels do not divide into 3 equal"),
        (SongUNetConfig(8, noise_mult=0), "at least 1"),
        (SongUNetConfig(8, heads=3), "3 attention heads"),
        (SongUNetConfig(8, encoder="pyramid"), "standard, skip, residual"),
        (SongUNetConfig(8, fir=(1, 2, 1)), "even number of taps"),
        (SongUNetConfig(8, fourier_scale=0.02), "fourier"),
        (SongUNetConfig(8, emb=-1), "negative"),
    ],
)
def test_settings_that_do_not_fit_are_errors_of_one_line(config, message):
    with pytest.raises(ValueError, match=message) as caught:
        build_network(config, (3, 16, 16))
    assert "\n" not in str(caught.value)


def test_song_refuses_images_that_are_not_square():
    with pytest.raises(ValueError, match="square"):
        build_network(SongUNetConfig(8), (3, 8, 16))


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "mlp"])
def test_unets_run_under_autocast(variant):
    kind, changes = VARIANTS[variant]
    net, (x, c_noise) = build(kind, **changes), inputs(kind)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        low = net(x, c_noise)
        tangent = torch.func.jvp(lambda a: net(a, c_noise), (x,), (x,))[1]
    with torch.no_grad():
        high, want = torch.func.jvp(lambda a: net(a, c_noise), (x,), (x,))[:2]
    # bfloat16 keeps 8 bits: 0.4 % per operation, a few per cent through the depth.
    assert float((low.float() - high).norm() / high.norm()) < 0.1
    assert float((tangent.float() - want).norm() / want.norm()) < 0.2


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "mlp"])
def test_channels_last_gives_the_same_numbers(variant):
    kind, changes = VARIANTS[variant]
    net, (x, c_noise) = build(kind, dtype=torch.float64, **changes), inputs(kind, dtype=torch.float64)
    x.requires_grad_()
    out = net(x, c_noise)
    (grad,) = torch.autograd.grad(out.square().sum(), x)
    net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    again = net(last, c_noise)
    assert again.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(again, out, rtol=0, atol=1e-11)
    (again,) = torch.autograd.grad(again.square().sum(), last)
    assert torch.allclose(again, grad, rtol=0, atol=1e-9)
    tangent = torch.func.jvp(lambda a: net(a, c_noise), (last.detach(),), (grad,))[1]
    assert torch.allclose(tangent, torch.func.jvp(lambda a: net(a, c_noise), (x.detach(),), (grad,))[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["unet", "song"])
def test_recomputed_gradients_are_the_same(kind):
    grads, counts = [], []
    for recompute in (False, True):
        net = build(kind, 3, recompute=recompute, dropout=0.3).train()
        x, c_noise = inputs(kind)
        calls = []
        for module in net.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.register_forward_hook(lambda *_, seen=calls: seen.append(1))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            net(x, c_noise, torch.tensor([0, 1, -1])).square().sum().backward()
        counts.append(len(calls))
        grads.append([p.grad for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert counts[1] > 1.5 * counts[0]  # it did compute again
    # and forward mode, where torch cannot, still works
    torch.func.jvp(lambda a: net(a, c_noise), (x,), (x,))[1].sum().backward()


@pytest.mark.parametrize("kind", ["unet", "song"])
def test_augmentation_labels(kind):
    net, (x, c_noise) = build(kind, augment=5), inputs(kind)
    labels = normal(3, 5, dtype=torch.float32)
    base = net(x, c_noise)
    assert torch.equal(net(x, c_noise, None, torch.zeros(3, 5)), base)
    assert not torch.allclose(net(x, c_noise, None, labels), base, atol=1e-3)
    with pytest.raises(ValueError, match="no augmentation labels"):
        build(kind)(x, c_noise, None, labels)


# --- embeddings, normalisation, filters ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [8, 9])
def test_time_features_are_cosines_then_sines(dim):
    t = torch.tensor([0.0, 1.0, 740.0], dtype=torch.float64)
    out = time_features(t, dim, 100.0)
    for row, value in zip(out, t, strict=True):
        angles = [float(value) * 100.0 ** (-k / 4) for k in range(4)]
        want = [math.cos(a) for a in angles] + [math.sin(a) for a in angles] + [0.0] * (dim % 2)
        assert torch.allclose(row, torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-12)
    assert float((time_features(t.float(), dim, 100.0) - out).abs().max()) < 1e-4  # 740 rad in float32
    assert time_features(t.bfloat16(), dim).dtype == torch.bfloat16


def test_positional_features_keep_float32_frequencies():
    t = torch.tensor([1e3], dtype=torch.float64)
    exact = [1e3 * 10000.0 ** (-k / 7) for k in range(8)]
    angles = torch.atan2(*positional_features(t, 16, endpoint=True).chunk(2, 1)[::-1])[0]
    error = [abs(math.remainder(float(a) - e, 2 * math.pi)) for a, e in zip(angles, exact, strict=True)]
    assert 1e-9 < max(error) < 1e-4
    x, c_noise = inputs("unet", dtype=torch.float64)
    with torch.no_grad():
        outs = [build("unet", dtype=torch.float64, float32_freqs=f)(x, c_noise) for f in (False, True)]
    assert 0 < float((outs[0] - outs[1]).abs().max()) < 1e-4


@pytest.mark.parametrize("width", [6, 10])
@pytest.mark.parametrize("kind", [UNetConfig, SongUNetConfig])
def test_widths_that_are_no_multiple_of_the_group(kind, width):
    # NVlabs' rule: min(32, width // 4) groups, which need not be of 4 channels.
    net = randomise(build_network(kind(width, mult=(1,), blocks=1, attention=(), emb=8), (1, 4, 4)))
    assert {m.num_groups for m in net.modules() if isinstance(m, Norm) and m.num_channels == width} == {width // 4}
    out = net(normal(2, 1, 4, 4).float(), torch.zeros(2))
    assert out.shape == (2, 1, 4, 4)
    assert bool(out.isfinite().all())


@pytest.mark.parametrize(("rule", "groups"), [((4, 0), (6, 64)), ((1, 32), (24, 32)), ((4, 32), (6, 32))])
def test_normalisation_groups(rule, groups):
    assert tuple(Norm(c, *rule).num_groups for c in (24, 256)) == groups


@pytest.mark.parametrize("fir", [(1, 1), (1, 3, 3, 1), (1, 2, 3, 4, 3, 1)])
@pytest.mark.parametrize("resample", ["up", "down"])
@pytest.mark.parametrize("fused", [False, True])
def test_filters_keep_a_constant_image(fir, resample, fused):
    conv = Conv2d(2, 2, 1, resample, fir, fused).double()
    with torch.no_grad():
        conv.load_state_dict({"weight": torch.eye(2)[..., None, None], "bias": torch.tensor([0.0, 1.0])})
        out = conv(torch.full((1, 2, 16, 16), 3.0, dtype=torch.float64))
    assert out.shape == ((1, 2, 32, 32) if resample == "up" else (1, 2, 8, 8))
    inner = out[:, :, 3:-3, 3:-3]
    assert torch.allclose(inner, torch.tensor([3.0, 4.0], dtype=torch.float64).reshape(1, 2, 1, 1).expand_as(inner), atol=1e-6)


def test_the_shortest_filter_is_pooling_and_nearest_neighbour():
    x = normal(1, 3, 8, 8)
    for resample in ("up", "down"):
        short = Conv2d(3, 3, 0, resample, (1, 1)).double()
        long = Conv2d(3, 3, 0, resample, (0, 1, 1, 0)).double()
        assert torch.allclose(short(x), long(x))


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


def test_filters_of_odd_widths_keep_their_order_on_a_cpu():
    point, wide = torch.nn.Conv2d(8, 16, 1), torch.nn.Conv2d(3, 6, 3)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert orders_by_pixel(torch.nn.Sequential(point, wide), cpu)
    for odd in (torch.nn.Conv2d(8, 6, 1), torch.nn.Conv2d(3, 8, 1)):
        assert not orders_by_pixel(torch.nn.Sequential(point, odd), cpu) and orders_by_pixel(odd, cuda)


@pytest.mark.parametrize("kind", ["unet", "song", "mlp"])
def test_blocks_of_one_shape_are_compiled_once(kind, monkeypatch):
    graphs: list[int] = []

    def backend(graph, _):
        graphs.append(len(list(graph.graph.nodes)))
        return graph.forward

    of = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, dynamic, options: of(self, dynamic=dynamic, backend=backend))
    many: dict[str, Any] = {"depth": 12} if kind == "mlp" else {"blocks": 9, "mult": (1,)}
    net = build(kind, **many)
    x, t = torch.zeros(2, *TINY[kind][1]), torch.zeros(2)
    with torch.no_grad():
        plain = net(x, t)
        compile_blocks(net)
        assert torch.equal(net(x, t), plain)
    blocks = [module for module in net.modules() if isinstance(module, Block)]
    assert len(blocks) >= 12 and 0 < len(graphs) <= len(blocks) / 3  # torch alone gives up after 8 shapes
