"""Published state dicts: read off, there and back, and one line for those that do not fit."""

from dataclasses import replace

import pytest
import torch
from conftest import normal, randomise

from cmlab.formats.checkpoints import check_state, expected_state
from cmlab.formats.layouts import _dhariwal_names, from_edm, from_openai, openai_config, to_openai
from cmlab.networks import SongUNetConfig, UNetConfig, build_network
from cmlab.networks.adm import IMAGENET64, LSUN256

OPENAI = UNetConfig(32, (1, 2), attention=(8,), head_channels=16, group=1, max_groups=32, time_scale=1000.0)
# Settings that the weights tell, next to those that a caller has to say.
TOLD = {
    "plain": {},
    "added": {"scale_shift": False, "resample": "conv"},
    "pooled": {"resample": "pool", "mult": (1, 2, 2)},
    "half": {"mult": (0.5, 1), "channels": 64, "attention": (16, 8)},
    "deep": {"blocks": 3, "emb": 48, "mult": (1, 1, 1), "attention": (16, 4)},
    "one level": {"mult": (2,), "attention": ()},
    "variance": {"variance": True},
}
DHARIWAL = UNetConfig(32, (2, 1), 1, (8,), head_channels=64, max_groups=32, time_scale=1.0, float32_freqs=True)
EDM = {
    "dhariwal": DHARIWAL,
    "dhariwal deep": replace(DHARIWAL, mult=(1, 2, 2), blocks=2, attention=(8, 4), augment=3, emb=64, variance=True),
    "ddpm++": SongUNetConfig(8, (1, 2), 1, (8,), augment=4),
    "ncsn++": SongUNetConfig(8, (1, 2, 2), 1, (4,), embedding="fourier", noise_mult=2, encoder="residual", fir=(1, 3, 3, 1)),
    "skip": SongUNetConfig(8, (1, 2), 2, (), encoder="skip", decoder="skip", emb=16, dropout=0.2),
}
SHAPE = (3, 16, 16)


def network(config, classes: int = 0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return randomise(build_network(config, SHAPE, classes)).eval()


def published(config, classes: int = 0):
    """A made-up checkpoint as NVlabs' code would write it: class name, arguments, state dict."""
    state, filters = network(config, classes).state_dict(), getattr(config, "fir", (1, 1))
    kwargs = {
        "img_resolution": SHAPE[1],
        "in_channels": SHAPE[0],
        "out_channels": SHAPE[0] * (2 if config.variance else 1),
        "label_dim": classes,
        "augment_dim": config.augment,
        "model_channels": config.channels,
        "channel_mult": list(config.mult),
        "channel_mult_emb": (config.emb or 4 * config.channels) // config.channels,
        "num_blocks": config.blocks,
        "attn_resolutions": list(config.attention),
        "dropout": config.dropout,
    }
    if isinstance(config, UNetConfig):
        theirs = {old: in_nvlabs_order(new, state[new]) for old, new in _dhariwal_names(config, SHAPE, classes).items()}
    else:
        kwargs |= {"embedding_type": config.embedding, "channel_mult_noise": config.noise_mult, "resample_filter": list(filters)}
        kwargs |= {"encoder_type": config.encoder, "decoder_type": config.decoder}
        theirs = dict(state)
    taps = torch.tensor(filters, dtype=torch.float32)
    for block in resampling_blocks(config):
        for layer in ("",) if "_aux_" in block else ("conv0.", "skip."):
            theirs[f"{block}.{layer}resample_filter"] = (torch.outer(taps, taps) / taps.sum() ** 2)[None, None]
    return "DhariwalUNet" if isinstance(config, UNetConfig) else "SongUNet", kwargs, theirs


def in_nvlabs_order(new: str, value: torch.Tensor) -> torch.Tensor:
    """One weight of a UNet in DhariwalUNet's layout: attention rows [head][channel][q, k, v] instead of [q|k|v][head][channel]."""
    if new == "label_emb.weight":
        return value.T
    if new.endswith(("qkv.weight", "proj_out.weight")):
        value = value[..., None]
    return value.unflatten(0, (3, -1)).transpose(0, 1).flatten(0, 1) if "qkv." in new else value


def resampling_blocks(config) -> list[str]:
    """NVlabs' names of the parts that change resolution."""
    sides = [SHAPE[1] >> level for level in range(1, len(config.mult))]
    names = [f"enc.{s}x{s}_down" for s in sides] + [f"dec.{2 * s}x{2 * s}_up" for s in sides]
    if getattr(config, "encoder", "standard") != "standard":
        names += [f"enc.{s}x{s}_aux_{'down' if config.encoder == 'skip' else 'residual'}" for s in sides]
    if getattr(config, "decoder", "standard") == "skip":
        names += [f"dec.{2 * s}x{2 * s}_aux_up" for s in sides]
    return names


def line(call) -> str:
    """The error's text, which must be one line."""
    with pytest.raises(ValueError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- openai and guided-diffusion -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("told", TOLD)
def test_openai_configuration_is_read_off_the_weights(told, classes):
    config = replace(OPENAI, **TOLD[told])
    state = network(config, classes).state_dict()
    theirs = to_openai(state)
    assert {v.ndim for k, v in theirs.items() if k.endswith(("qkv.weight", "proj_out.weight"))} <= {4}
    assert openai_config(theirs, 16, head_channels=16) == (config, SHAPE, classes)
    assert openai_config(state, 16, head_channels=16) == (config, SHAPE, classes)  # guided-diffusion's (3C, C, 1)
    again = from_openai(theirs)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[k], state[k]) for k in state)


@pytest.mark.parametrize(("config", "classes"), [(IMAGENET64, 1000), (LSUN256, 0)])
def test_the_published_networks_need_no_facts(config, classes):
    size = 64 if classes else 256
    state = {name: torch.empty(shape, device="meta") for name, shape in expected_state(config, (3, size, size), classes).items()}
    assert openai_config(to_openai(state), size) == (config, (3, size, size), classes)


def test_facts_are_what_the_weights_do_not_tell():
    state = network(OPENAI).state_dict()
    config, _, _ = openai_config(state, 16, heads=2, heads_up=4, dropout=0.1, time_scale=1.0)
    assert (config.heads, config.heads_up, config.head_channels, config.dropout, config.time_scale) == (2, 4, 0, 0.1, 1.0)
    assert "blocks" in line(lambda: openai_config(state, 16, head_channels=16, blocks=2))
    assert "either heads" in line(lambda: openai_config(state, 16, head_channels=16, heads=2))


def test_weights_that_are_no_unet_are_refused():
    state = network(OPENAI).state_dict()
    facts = {"head_channels": 16}
    assert "time_embed.0.weight is missing" in line(lambda: openai_config({}, 16))
    assert "time_embed.0.weight is of shape (4,)" in line(lambda: openai_config({"time_embed.0.weight": torch.ones(4)}, 16))
    for gone in ("middle_block.0.in_layers.0.bias", "output_blocks.3.0.emb_layers.1.weight", "time_embed.2.bias"):
        assert gone in line(lambda gone=gone: openai_config({k: v for k, v in state.items() if k != gone}, 16, **facts))
    assert "levels of 2" in line(
        lambda: openai_config({k: v for k, v in state.items() if "output_blocks.3." not in k}, 16, **facts)
    )
    assert "extra" in line(lambda: openai_config({**state, "extra": torch.ones(1)}, 16, **facts))
    wrong = {**state, "middle_block.0.out_layers.3.bias": torch.ones(7)}
    assert "shape (7,) of middle_block.0.out_layers.3.bias should be (64,)" in line(lambda: openai_config(wrong, 16, **facts))
    assert "no denoiser" in line(lambda: openai_config({**state, "out.2.weight": torch.ones(4, 32, 3, 3)}, 16, **facts))
    assert "sides divide" in line(lambda: openai_config(state, 15, **facts))
    assert "augmentation" in line(lambda: to_openai(network(replace(OPENAI, augment=2)).state_dict()))


# --- NVlabs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("name", EDM)
def test_edm_there_and_back(name, classes, prefix):
    config = EDM[name]
    kind, kwargs, theirs = published(config, classes)
    shuffled = {prefix + k: theirs[k] for k in sorted(theirs)}  # the order of the names means nothing
    again, shape, n, state = from_edm(kind, kwargs, shuffled)
    assert (again, shape, n) == (config, SHAPE, classes)
    mine = network(config, classes).state_dict()
    assert state.keys() == mine.keys()
    assert all(torch.equal(state[k], mine[k]) for k in mine)


def test_dhariwal_names_and_orders():
    kind, kwargs, theirs = published(DHARIWAL, 5)
    assert kind == "DhariwalUNet"
    assert kwargs["attn_resolutions"] == [8]
    mine = network(DHARIWAL, 5).state_dict()
    assert torch.equal(theirs["map_label.weight"], mine["label_emb.weight"].T)
    assert torch.equal(theirs["enc.16x16_conv.weight"], mine["input_blocks.0.0.weight"])
    assert torch.equal(theirs["enc.8x8_down.conv1.bias"], mine["input_blocks.2.0.out_layers.3.bias"])
    assert torch.equal(theirs["dec.8x8_in1.affine.weight"], mine["middle_block.1.emb_layers.1.weight"])  # 32 channels: no heads
    assert torch.equal(theirs["dec.16x16_up.conv0.weight"], mine["output_blocks.1.1.in_layers.2.weight"])
    assert theirs["dec.16x16_up.skip.resample_filter"].tolist() == [[[[0.25, 0.25], [0.25, 0.25]]]]
    wide = replace(DHARIWAL, mult=(2, 4))  # 128 channels: two heads of 64
    qkv = published(wide)[2]["dec.8x8_in0.qkv.bias"]
    ours = network(wide).state_dict()["middle_block.1.qkv.bias"].reshape(3, 2, 64)
    assert torch.equal(qkv.reshape(2, 64, 3), ours.permute(1, 2, 0))


def test_absent_edm_arguments_have_nvlabs_defaults():
    want = SongUNetConfig(128, (1, 2, 2, 2), 4, (16,), dropout=0.1)
    state = {name: torch.empty(shape, device="meta") for name, shape in expected_state(want, SHAPE, 0).items()}
    config, _, classes, _ = from_edm("SongUNet", {"img_resolution": 16, "in_channels": 3, "out_channels": 3}, state)
    assert (config, classes) == (want, 0)


def test_edm_networks_that_do_not_fit_are_refused():
    kind, kwargs, theirs = published(EDM["ddpm++"])
    assert "class DiT" in line(lambda: from_edm("DiT", kwargs, theirs))
    assert "no setting colour" in line(lambda: from_edm(kind, kwargs | {"colour": 1}, theirs))
    assert "DhariwalUNet has no setting channel_mult_noise" in line(lambda: from_edm("DhariwalUNet", kwargs, theirs))
    assert "lack img_resolution, in_channels" in line(
        lambda: from_edm(kind, {k: v for k, v in kwargs.items() if k[0] != "i"}, theirs)
    )
    assert "should look like 4, got 'many'" in line(lambda: from_edm(kind, kwargs | {"num_blocks": "many"}, theirs))
    assert "should look like [1, 2, 2, 2], got [1, 'x']" in line(
        lambda: from_edm(kind, kwargs | {"channel_mult": [1, "x"]}, theirs)
    )
    assert "no denoiser" in line(lambda: from_edm(kind, kwargs | {"out_channels": 5}, theirs))
    for broken in ("ddpm++", "dhariwal"):
        kind, kwargs, theirs = published(EDM[broken])
        gone = {k: v for k, v in theirs.items() if k != "dec.8x8_in0.norm1.bias"}
        assert "lack" in line(lambda a=kind, b=kwargs, c=gone: from_edm(a, b, c))
        extra = {**theirs, "surplus.weight": torch.ones(1)}
        assert "surplus.weight" in line(lambda a=kind, b=kwargs, c=extra: from_edm(a, b, c))
        wrong = {**theirs, "map_layer0.bias": torch.ones(7)}
        assert "shape (7,)" in line(lambda a=kind, b=kwargs, c=wrong: from_edm(a, b, c))


def test_a_converted_dhariwal_network_computes_what_its_parts_say():
    # The time enters as it is: c_noise = ln(sigma) / 4 without a factor.
    net = network(DHARIWAL)
    kind, kwargs, theirs = published(DHARIWAL)
    config, shape, classes, state = from_edm(kind, kwargs, theirs)
    again = build_network(config, shape, classes).eval()
    again.load_state_dict(state)
    x, c_noise = normal(2, *SHAPE, dtype=torch.float32), torch.tensor([-1.5, 1.1])
    assert torch.equal(again(x, c_noise), net(x, c_noise))
    check_state(state, config, shape, classes)
