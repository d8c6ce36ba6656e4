"""The U-Nets: openai's UNetModel, and NVlabs' SongUNet and DhariwalUNet with their parts."""

import torch

from cmlab.denoiser import Denoiser, Precond
from cmlab.formats.layouts import LAYERS, dhariwal_value, from_edm, from_openai, openai_config
from cmlab.networks import UNetConfig, build_network
from cmlab.networks.adm import Attention, ResBlock
from cmlab.networks.layers import positional_features
from cmlab.networks.song import Conv2d, UNetBlock

from .base import F32_NETWORK, F64, Check, Skip, runs
from .precond import label_of


def single(case, want, name: str) -> float:
    """float32 tolerance: GOLDEN.md's, but no more than five times the original's own distance from its float64 result."""
    floor = case.scalars.get("noise_floor_max_abs")
    return F32_NETWORK if floor is None else min(F32_NETWORK, 5 * floor / float(want.tensor("out", name).abs().max()))


def openai_net(case, dtype: torch.dtype, time_scale: float = 1000.0, scale: float = 1.0):
    """The case's U-Net, its configuration read off the weights, which are multiplied by ``scale``; its sample shape and classes.

    Only what leaves no trace in the weights is taken from the index, where null and -1 mean "not given".
    """
    c = case.scalars["config"]
    head_channels, heads, up = (max(c.get(k) or 0, 0) for k in ("num_head_channels", "num_heads", "num_heads_upsample"))
    facts = {"head_channels": head_channels} if head_channels else {"heads": heads or 1, "heads_up": up}
    state = {name: scale * value for name, value in case.params(dtype).items()}
    config, shape, classes = openai_config(state, c["image_size"], time_scale=time_scale, **facts)
    # What the index says of the network is what the weights told.
    sides = {c["image_size"] // factor for factor in c["attention_resolutions"]}
    assert (config.channels, config.mult, config.blocks) == (c["model_channels"], tuple(c["channel_mult"]), c["num_res_blocks"])
    assert set(config.attention) == sides & {c["image_size"] >> level for level in range(len(config.mult))}
    assert (classes, shape[0]) == (c.get("num_classes") or 0, c["in_channels"])
    net = build_network(config, shape, classes).to(dtype).eval()
    net.load_state_dict(from_openai(state))
    return net, shape, classes


@runs("b_unet_.*", "UNetModel.forward")
def unet(case):
    y = case.input("y") if case.has("in", "y") else None
    with torch.no_grad():
        net, _, _ = openai_net(case, torch.float32, time_scale=1.0)
        yield Check("y_f32", net(case.input("x"), case.input("t"), y), single(case, case, "y_f32"))
        net, _, _ = openai_net(case, torch.float64, time_scale=1.0)
        first = net(case.input("x").double()[:1], case.input("t").double()[:1], None if y is None else y[:1])
        yield Check("y_f64", first, F64)
    yield Skip("y_legacy_max_abs_diff", "float16-attention")


@runs("b_unet_.*", "KarrasDenoiser.denoise")
def denoise(case):
    source, s = case.file.case("net"), case.scalars
    precond = Precond(s["sigma_data"], s["sigma_min"] if s["distillation"] else 0.0)
    net, shape, classes = openai_net(source, torch.float32, time_scale=1000.0)
    model = Denoiser(net, precond, shape, classes)
    label = source.input("y") if classes else None
    x, sigma = case.input("x_t"), case.input("sigma")
    with torch.no_grad():
        c = precond(sigma)
        raw = net(c.c_in[:, None, None, None] * x, c.c_noise, label)
        yield Check("model_output", raw, single(source, case, "model_output"))
        yield Check("denoised", model(x, sigma, label), F32_NETWORK)


@runs("g_edm_net_.*", "SongUNet.forward", "DhariwalUNet.forward")
def edm_net(case):
    kind = case.fn.split(".")[0]
    label = label_of(case)
    augment = case.input("augment_labels") if case.has("in", "augment_labels") else None
    for dtype, rows in ((torch.float32, slice(None)), (torch.float64, slice(1))):
        config, shape, classes, state = from_edm(kind, case.scalars["config"], case.params(dtype))
        net = build_network(config, shape, classes).to(dtype).eval()
        net.load_state_dict(state)
        x, noise = case.input("x", dtype)[rows], case.input("noise_labels", dtype)[rows]
        labels = None if label is None else label[rows]
        augments = None if augment is None else augment[rows].to(dtype)
        with torch.no_grad():
            if dtype == torch.float64:
                yield Check("y_f64", net(x, noise, labels, augments), F64)
                continue
            yield Check("y_f32", net(x, noise, labels, augments), single(case, case, "y_f32"))
            if case.has("out", "y_noaug_f32"):
                yield Check("y_noaug_f32", net(x, noise, labels), single(case, case, "y_noaug_f32"))


def resample_of(c) -> str:
    return "up" if c.get("up") else "down" if c.get("down") else ""


def own(case, dtype: torch.dtype):
    """The case's parameters without the filters, which cmlab derives."""
    return {name: value for name, value in case.params(dtype).items() if not name.endswith("resample_filter")}


def with_eps(module: torch.nn.Module, c) -> torch.nn.Module:
    """The block in eval mode, with the eps of the case in its normalisations."""
    for part in module.modules():
        if isinstance(part, torch.nn.GroupNorm):
            part.eps = c.get("eps", 1e-5)
    return module.eval()


def song_block(case, dtype: torch.dtype):
    c = case.scalars["config"]
    assert abs(c.get("skip_scale", 1) ** 2 - 0.5) < 1e-12, "cmlab's SongUNet adds branches with skip_scale sqrt(1/2) only"
    projects = c.get("resample_proj", False) or not resample_of(c) or c["in_channels"] != c["out_channels"]
    assert projects, "cmlab's SongUNet resamples with a 1 x 1 convolution beside it only: resample_proj"
    fir, heads = tuple(c.get("resample_filter", (1, 1))), case.scalars["effective_num_heads"]
    block = UNetBlock(c["in_channels"], c["out_channels"], c["emb_channels"], resample_of(c), heads, fir=fir)
    block.load_state_dict(own(case, torch.float32))
    return with_eps(block, c).to(dtype)(case.input("x", dtype), case.input("emb", dtype))


def adm_block(case, dtype: torch.dtype):
    """A block of a DhariwalUNet: in cmlab a residual block and an attention, which apply SiLU to the embedding themselves."""
    c, state = case.scalars["config"], own(case, torch.float32)
    assert tuple(c.get("resample_filter", (1, 1))) == (1, 1), "cmlab's U-Net resamples with a box filter only: resample_filter"
    assert c.get("skip_scale", 1) == 1, "cmlab's U-Net adds its branches unscaled only: skip_scale"
    projects = c.get("resample_proj", False) and resample_of(c) and c["in_channels"] == c["out_channels"]
    assert not projects, "cmlab's U-Net resamples without a convolution beside it only: resample_proj"
    config = UNetConfig(group=4, max_groups=32)
    block = ResBlock(c["in_channels"], c["out_channels"], config, c["emb_channels"], resample_of(c))
    block.emb_layers[0] = torch.nn.Identity()  # NVlabs applies it once, before all blocks

    def weights(module):
        parts = [(new, *new.rpartition(".")[::2]) for new in module.state_dict()]
        return {new: dhariwal_value(new, state[f"{LAYERS[layer]}.{kind}"]) for new, layer, kind in parts}

    block.load_state_dict(weights(block))
    h = with_eps(block, c).to(dtype)(case.input("x", dtype), case.input("emb", dtype))
    if heads := case.scalars["effective_num_heads"]:
        attention = Attention(c["out_channels"], heads, config)
        attention.load_state_dict(weights(attention))
        h = with_eps(attention, c).to(dtype)(h)
    return h


@runs("g_edm_blocks.*", "UNetBlock.forward")
def edm_block(case):
    block = adm_block if case.scalars["config"].get("adaptive_scale", True) else song_block
    with torch.no_grad():
        yield Check("y_f32", block(case, torch.float32), F32_NETWORK)
        yield Check("y_f64", block(case, torch.float64), F64)


@runs("g_edm_blocks.*", "Conv2d.forward")
def edm_conv(case):
    c = case.scalars["config"]
    fir, fused = tuple(c.get("resample_filter", (1, 1))), c.get("fused_resample", False)
    conv = Conv2d(c["in_channels"], c["out_channels"], c["kernel"], resample_of(c), fir, fused)
    conv.load_state_dict(own(case, torch.float32))
    with torch.no_grad():
        yield Check("y_f64", conv.double()(case.input("x", torch.float64)), F64)


@runs("g_edm_blocks.*", "PositionalEmbedding.forward")
def positional(case):
    s = case.scalars
    yield Check("y", positional_features(case.input("x"), s["num_channels"], s["max_positions"], s["endpoint"]), F64)
