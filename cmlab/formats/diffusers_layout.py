"""The ADM U-Net in the words of diffusers' UNet2DModel: its settings, and the names of its weights, in both directions.

diffusers expresses a part of what a UNetConfig can: the functions here raise ValueError, with the reason, for the rest.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..networks.adm import UNetConfig
from .layouts import Obstacle, common_obstacles, refuse

_RES = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
# What UNet2DModel takes for a setting that is left out, and all that it may be for a setting that cmlab has no counterpart of.
_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "time_embedding_dim": None,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "resnet_time_scale_shift": "default",
    "num_class_embeds": None,
}
_FIXED: dict[str, Any] = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "add_attention": True,
    "class_embed_type": None,
    "num_train_timesteps": None,
}
# (attention, resampling in a residual block) by the name of a block; None: "downsample_type" or "upsample_type" decides.
_DOWN = {"DownBlock2D": (False, "conv"), "ResnetDownsampleBlock2D": (False, "block"), "AttnDownBlock2D": (True, None)}
_UP = {"UpBlock2D": (False, "conv"), "ResnetUpsampleBlock2D": (False, "block"), "AttnUpBlock2D": (True, None)}
_TYPES = {"conv": "conv", "resnet": "block"}


def _attends(config: UNetConfig, size: int) -> list[bool]:
    """Which levels have attention."""
    return [size >> level in config.attention for level in range(len(config.mult))]


def _modules(config: UNetConfig, size: int, classes: int) -> Iterator[tuple[str, str, str]]:
    """(kind, cmlab's name, diffusers' name) of every module with weights: kind "res", "attention" or "" for a single layer."""
    block = config.resample == "block"
    levels, attends = len(config.mult), _attends(config, size)
    yield "", "time_embed.0", "time_embedding.linear_1"
    yield "", "time_embed.2", "time_embedding.linear_2"
    if classes:
        yield "", "label_emb", "class_embedding"
    yield "", "input_blocks.0.0", "conv_in"
    at = 0
    for level in range(levels):
        if level:
            at += 1
            ours, theirs = f"input_blocks.{at}.0", f"down_blocks.{level - 1}.downsamplers.0"
            yield ("res", ours, theirs) if block else ("", f"{ours}.op", f"{theirs}.conv")
        for i in range(config.blocks):
            at += 1
            yield "res", f"input_blocks.{at}.0", f"down_blocks.{level}.resnets.{i}"
            if attends[level]:
                yield "attention", f"input_blocks.{at}.1", f"down_blocks.{level}.attentions.{i}"
    yield "res", "middle_block.0", "mid_block.resnets.0"
    yield "attention", "middle_block.1", "mid_block.attentions.0"
    yield "res", "middle_block.2", "mid_block.resnets.1"
    at = 0
    for up, level in enumerate(reversed(range(levels))):
        for i in range(config.blocks + 1):
            yield "res", f"output_blocks.{at}.0", f"up_blocks.{up}.resnets.{i}"
            if attends[level]:
                yield "attention", f"output_blocks.{at}.1", f"up_blocks.{up}.attentions.{i}"
            if level and i == config.blocks:
                ours, theirs = f"output_blocks.{at}.{1 + attends[level]}", f"up_blocks.{up}.upsamplers.0"
                yield ("res", ours, theirs) if block else ("", f"{ours}.conv", f"{theirs}.conv")
            at += 1
    yield "", "out.0", "conv_norm_out"
    yield "", "out.2", "conv_out"


def _names(config: UNetConfig, size: int, classes: int) -> Iterator[tuple[str, str]]:
    """cmlab's and diffusers' name of every weight, those of queries, keys and values apart; some layers have none of these."""
    for kind, ours, theirs in _modules(config, size, classes):
        for mine, other in {"res": _RES, "attention": _ATTENTION}.get(kind, {"": ""}).items():
            for end in ("weight", "bias") if ours != "label_emb" else ("weight",):
                yield ".".join(filter(None, (ours, mine, end))), ".".join(filter(None, (theirs, other, end)))


def to_diffusers(state: dict[str, Tensor], config: UNetConfig, size: int, classes: int) -> dict[str, Tensor]:
    """cmlab's weights under diffusers' names; for a network that ``diffusers_settings`` accepts. Every bit is kept."""
    apart = dict(state)
    for name, value in state.items():
        if ".qkv." in name:
            apart |= {name.replace(".qkv.", f".{part}."): v for part, v in zip("qkv", value.chunk(3), strict=True)}
    pairs = ((ours, theirs) for ours, theirs in _names(config, size, classes) if ours in apart)
    return {theirs: apart[ours].reshape(apart[ours].shape[:2]) if ".to_" in theirs else apart[ours] for ours, theirs in pairs}


def from_diffusers(state: dict[str, Tensor], config: UNetConfig, size: int, classes: int) -> dict[str, Tensor]:
    """diffusers' weights under cmlab's names; raises ValueError for missing or surplus ones. Shapes are the caller's to check."""
    left, out = dict(state), {}
    for ours, theirs in _names(config, size, classes):
        if theirs in left:
            value = left.pop(theirs)
            out[ours] = value[..., None] if ".to_" in theirs and value.dim() == 2 else value
        elif "conv_shortcut" not in theirs:
            raise ValueError(f"the weights {theirs} are missing")
    if left:
        raise ValueError(f"the weights {next(iter(left))} belong to no part of the network that the settings describe")
    for query in [name for name in out if name.endswith((".q.weight", ".q.bias"))]:
        start, _, end = query.rpartition(".q.")
        out[f"{start}.qkv.{end}"] = torch.cat([out.pop(f"{start}.{part}.{end}") for part in "qkv"])
    return out


def _heads(config: UNetConfig, attends: list[bool]) -> tuple[set[int], set[int]]:
    """Widths of the layers that have attention, and channels of a head there."""
    widths = [int(config.channels * m) for m in config.mult]
    attending = {w for w, a in zip(widths, attends, strict=True) if a} | {widths[-1]}
    return attending, {config.head_channels or w // config.heads for w in attending}


def obstacles(config: UNetConfig, shape: tuple[int, ...]) -> Iterator[Obstacle]:
    """All that UNet2DModel has no settings for in this network on images of ``shape``."""
    yield from common_obstacles(config)
    widths, attends = [int(config.channels * m) for m in config.mult], _attends(config, shape[1])
    if widths[0] != config.channels:
        reason = "its first level is not as wide as its embedding (mult begins with another number than 1)"
        yield Obstacle(reason, {"mult": (1, *config.mult[1:])})
    if not config.max_groups or min(widths) // config.group < config.max_groups:
        groups = max(n for n in range(1, 33) if all(w % n == 0 for w in widths))
        yield Obstacle("its number of normalisation groups differs between layers", {"group": 1, "max_groups": groups})
    attending, heads = _heads(config, attends)
    differing = len(heads) > 1 or any(w % min(heads) for w in attending)
    if differing or (config.heads_up not in (0, config.heads) and any(attends)):
        choose = {"heads": 1, "heads_up": 0, "head_channels": math.gcd(*attending)}
        yield Obstacle("its attention heads have different sizes in different layers", choose)
    if config.resample == "pool" and len(widths) > 1:
        yield Obstacle("it changes resolution without weights (resample pool)", {"resample": "block"})
    if config.variance:
        yield Obstacle("it predicts a variance", {"variance": False})


def diffusers_settings(config: UNetConfig, shape: tuple[int, ...], classes: int) -> dict[str, Any]:
    """UNet2DModel's settings for this network on images of ``shape``; raises ValueError where it has none."""
    refuse("diffusers' UNet2DModel", [*obstacles(config, shape)])
    attends = _attends(config, shape[1])
    block = config.resample == "block"
    down = ["AttnDownBlock2D" if a else "ResnetDownsampleBlock2D" if block else "DownBlock2D" for a in attends]
    up = ["AttnUpBlock2D" if a else "ResnetUpsampleBlock2D" if block else "UpBlock2D" for a in reversed(attends)]
    return {
        "_class_name": "UNet2DModel",
        **_FIXED,
        "sample_size": shape[1] if shape[1] == shape[2] else list(shape[1:]),
        "in_channels": shape[0],
        "out_channels": shape[0],
        "time_embedding_dim": None if config.emb in (0, 4 * config.channels) else config.emb,
        "down_block_types": down,
        "up_block_types": up,
        "block_out_channels": [int(config.channels * m) for m in config.mult],
        "layers_per_block": config.blocks,
        "downsample_type": "resnet" if block else "conv",
        "upsample_type": "resnet" if block else "conv",
        "dropout": config.dropout,
        "attention_head_dim": min(_heads(config, attends)[1]),
        "norm_num_groups": config.max_groups,
        "attn_norm_num_groups": config.max_groups,
        "resnet_time_scale_shift": "scale_shift" if config.scale_shift else "default",
        "num_class_embeds": classes or None,
    }


def read_diffusers_settings(settings: dict[str, Any]) -> tuple[UNetConfig, tuple[int, int, int], int]:
    """(config, shape of an image, number of classes) of UNet2DModel's settings; ValueError for those cmlab has no network for."""
    given = {k: v for k, v in settings.items() if not k.startswith("_")}
    if settings.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError(f"the network is a {settings['_class_name']!s:.40}, not a UNet2DModel")
    for name, value in given.items():
        if name not in _DEFAULTS and (name not in _FIXED or (value != _FIXED[name] and (name, value) != ("act_fn", "swish"))):
            raise ValueError(f"cmlab has no network with {name!s:.40} = {value!s:.40}")
    s = _DEFAULTS | given
    widths = [_count(s, "block_out_channels", w) for w in _sequence(s, "block_out_channels")]
    size = s["sample_size"]
    sides = [_count(s, "sample_size", n) for n in (size if isinstance(size, list) else [size, size])]
    channels, blocks, groups = (_count(s, name) for name in ("in_channels", "layers_per_block", "norm_num_groups"))
    if len(sides) != 2 or s["out_channels"] != channels:
        raise ValueError("cmlab has no network whose output has another shape than its input")
    if s["attn_norm_num_groups"] != groups and (s["attn_norm_num_groups"], s["resnet_time_scale_shift"]) != (None, "default"):
        raise ValueError("attn_norm_num_groups must be norm_num_groups: other networks are not the published ones")
    if s["resnet_time_scale_shift"] not in ("default", "scale_shift"):
        raise ValueError(f"cmlab has no network with resnet_time_scale_shift = {s['resnet_time_scale_shift']!s:.40}")
    head = None if s["attention_head_dim"] is None else _count(s, "attention_head_dim")
    attends, resample = _block_types(s, len(widths))
    config = UNetConfig(
        channels=widths[0],
        mult=tuple(w // widths[0] if w % widths[0] == 0 else w / widths[0] for w in widths),
        blocks=blocks,
        attention=tuple(sides[0] >> level for level, a in enumerate(attends) if a),
        emb=0 if s["time_embedding_dim"] is None else _count(s, "time_embedding_dim"),
        group=1,
        max_groups=groups,
        dropout=float(s["dropout"]),
        time_scale=1000.0,
        head_channels=head or 0,
        scale_shift=s["resnet_time_scale_shift"] == "scale_shift",
        resample=resample,
    )
    wrong = [w for w, a in zip(widths, [*attends[:-1], True], strict=True) if a and w % (head or 1)]
    if wrong or [int(config.channels * m) for m in config.mult] != widths:
        raise ValueError(f"block_out_channels {widths!s:.60} do not divide into heads of {head} or multiples of {widths[0]}")
    return config, (channels, sides[0], sides[1]), 0 if s["num_class_embeds"] is None else _count(s, "num_class_embeds")


def _block_types(s: dict[str, Any], levels: int) -> tuple[list[bool], str]:
    """Which levels have attention, and how the network changes resolution."""
    down, up = _sequence(s, "down_block_types"), _sequence(s, "up_block_types")
    if not len(down) == len(up) == levels:
        raise ValueError("block_out_channels, down_block_types and up_block_types must have one entry per level")
    if any(name not in _DOWN for name in down) or any(name not in _UP for name in up):
        raise ValueError(f"cmlab has no network with blocks other than {', '.join((*_DOWN, *_UP))}")
    attends = [_DOWN[name][0] for name in down]
    if [_UP[name][0] for name in reversed(up)] != attends:
        raise ValueError("cmlab has no network with attention at other resolutions on the way up than on the way down")
    ways = {_DOWN[name][1] or _TYPES.get(str(s["downsample_type"])) for name in down[:-1]}
    ways |= {_UP[name][1] or _TYPES.get(str(s["upsample_type"])) for name in up[:-1]}
    if len(ways) > 1 or None in ways:
        raise ValueError("cmlab has no network that changes resolution in different ways at different levels")
    return attends, ways.pop() or "block" if ways else "block"


def _sequence(s: dict[str, Any], name: str) -> list[Any]:
    if not isinstance(s[name], list | tuple) or not 1 <= len(s[name]) <= 16:
        raise ValueError(f"{name} must be a list with one entry per level")
    return list(s[name])


def _count(s: dict[str, Any], name: str, value: Any = None) -> int:
    value = s[name] if value is None else value
    if type(value) is not int or not 1 <= value <= 1 << 20:
        raise ValueError(f"{name} must be a whole number from 1 to {1 << 20}, not {value!s:.40}")
    return value
