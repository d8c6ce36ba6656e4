"""Published state dicts in cmlab's terms and back. Pure functions of dictionaries of tensors; nothing here reads a file.

openai's consistency models and guided-diffusion have cmlab's own names (`UNet`); their configuration is read off the shapes.
NVlabs' SongUNet has cmlab's names too (`SongUNet`); their DhariwalUNet is a `UNet` in other words and another channel order.
Every problem is a ValueError of one line.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..networks.adm import UNet, UNetConfig
from ..networks.song import SongUNet, SongUNetConfig

State = dict[str, Tensor]
Config = UNetConfig | SongUNetConfig
LAYERS = {  # openai's and NVlabs' names
    "in_layers.0": "norm0",
    "in_layers.2": "conv0",
    "emb_layers.1": "affine",
    "out_layers.0": "norm1",
    "out_layers.3": "conv1",
    "skip_connection": "skip",
    "norm": "norm2",
    "qkv": "qkv",
    "proj_out": "proj",
    "time_embed.0": "map_layer0",
    "time_embed.2": "map_layer1",
    "label_emb": "map_label",
    "map_augment": "map_augment",
    "out.0": "out_norm",
    "out.2": "out_conv",
}


class _NoDraws(TorchFunctionMode):
    """Leaves normally distributed weights as they are: the first draw without memory makes torch load its compiler, 5 s."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        return kwargs["tensor"] if func is nn.init.normal_ else func(*args, **kwargs)


def expected_state(config: Config, shape: tuple[int, ...], classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the state dict of the network that ``config`` describes; uses no memory."""
    with torch.device("meta"), _NoDraws():
        net = (UNet if isinstance(config, UNetConfig) else SongUNet)(config, shape, classes)  # type: ignore[arg-type]
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def check_state(state: Mapping[str, Tensor], config: Config, shape: tuple[int, ...], classes: int) -> None:
    """Raise ValueError unless ``state`` has exactly the names and shapes of that network."""
    want = expected_state(config, shape, classes)
    if missing := want.keys() - state.keys():
        raise ValueError(f"the weights lack {_some(missing)}, which this network has")
    if surplus := state.keys() - want.keys():
        raise ValueError(f"the weights have {_some(surplus)}, which this network has not")
    if wrong := [name for name, size in want.items() if tuple(state[name].shape) != size]:
        name = wrong[0]
        raise ValueError(f"{_some(wrong)}: shape {tuple(state[name].shape)} of {name} should be {want[name]}")


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def from_openai(state: Mapping[str, Tensor], head_major: UNetConfig | None = None) -> State:
    """cmlab's state of a U-Net of openai/consistency_models (1x1 convolutions (3C, C, 1, 1)) or guided-diffusion (3C, C, 1).

    head_major: for guided-diffusion networks trained with use_new_attention_order=False (its default), their configuration: their
        attention channels are ordered [head][q|k|v] instead of [q|k|v][head].
    """
    out: State = {}
    for name, value in state.items():
        if name.endswith(("qkv.weight", "proj_out.weight")) and value.ndim == 4:
            value = value[..., 0]
        if head_major is not None and ".qkv." in name:
            rows = len(value) // 3
            upwards = head_major.heads_up if name.startswith("output_blocks") else 0
            heads = rows // head_major.head_channels if head_major.head_channels else upwards or head_major.heads
            value = value.reshape(heads, 3, rows // heads, *value.shape[1:]).movedim(1, 0).reshape(value.shape)
        out[name] = value
    return out


def to_openai(state: Mapping[str, Tensor]) -> State:
    """The state dict that openai/consistency_models loads, from a `UNet`'s. Raises ValueError for one with augmentation labels."""
    if "map_augment.weight" in state:
        raise ValueError("openai's U-Net takes no augmentation labels: drop map_augment.weight, which acts in training only")
    pointwise = ("qkv.weight", "proj_out.weight")
    return {name: value[..., None] if name.endswith(pointwise) else value for name, value in state.items()}


def _size(state: Mapping[str, Tensor], key: str, dim: int = 0) -> int:
    """Size of a weight along ``dim``."""
    if key not in state or state[key].ndim <= dim or state[key].numel() == 0:
        found = f"is of shape {tuple(state[key].shape)}" if key in state else "is missing"
        raise ValueError(f"{key} {found}: these are no weights of a U-Net of guided-diffusion or openai/consistency_models")
    return state[key].shape[dim]


def openai_config(state: Mapping[str, Tensor], image_size: int, **facts: Any) -> tuple[UNetConfig, tuple[int, int, int], int]:
    """Configuration, sample shape and number of classes of a published guided-diffusion U-Net, read off its weights.

    ``facts`` are fields of UNetConfig that leave no trace in the weights. Without them those of the ImageNet-64 and LSUN
    consistency models hold: 64 channels per head, 32 normalisation groups, times c_noise * 1000, dropout 0. ``heads=4`` means four
    heads in every attention; nets trained on integer times instead of 250 ln(sigma) want ``time_scale=1``.
    Raises ValueError where names or shapes are not those of such a network.
    """
    state = from_openai(state)
    facts = {"head_channels": 0 if facts.get("heads") or facts.get("heads_up") else 64, **facts}
    facts = {"group": 1, "max_groups": 32, "time_scale": 1000.0, **facts}
    emb, channels = (_size(state, "time_embed.0.weight", dim) for dim in (0, 1))
    c_in, c_out = _size(state, "input_blocks.0.0.weight", 1), _size(state, "out.2.weight")
    if c_out not in (c_in, 2 * c_in):
        raise ValueError(
            f"a network from {c_in} to {c_out} channels is no denoiser: as many, or twice as many with a variance, are"
        )
    resample, per_level = _resampling(state)
    levels, rest = divmod(len({block for way, block, *_ in _blocks(state) if way == "output"}), per_level)
    if rest or per_level < 2:
        raise ValueError(f"the output blocks do not divide into levels of {per_level}: these weights are not a whole U-Net")
    starts = [1 + level * per_level for level in range(levels)]
    widths = [_size(state, f"input_blocks.{i}.0.out_layers.3.weight") for i in starts]
    mult = tuple(w // channels if w % channels == 0 else w / channels for w in widths)
    config = UNetConfig(
        channels=channels,
        mult=mult,
        blocks=per_level - 1,
        attention=tuple(image_size >> level for level, i in enumerate(starts) if f"input_blocks.{i}.1.qkv.weight" in state),
        emb=0 if emb == 4 * channels else emb,
        scale_shift=_size(state, "input_blocks.1.0.emb_layers.1.weight") == 2 * widths[0],
        resample=resample,
        variance=c_out != c_in,
    )
    unknown = facts.keys() - {"heads", "heads_up", "head_channels", "dropout", "time_scale", "group", "max_groups", "recompute"}
    if unknown:
        raise ValueError(f"{_some(unknown)}: the weights themselves say that, or no U-Net has it")
    config = replace(config, **facts)
    shape = (c_in, image_size, image_size)
    classes = _size(state, "label_emb.weight") if "label_emb.weight" in state else 0
    check_state(state, config, shape, classes)
    return config, shape, classes


def _blocks(state: Mapping[str, Tensor]) -> Iterator[tuple[str, int, int, str]]:
    """("input" or "output", number of the block, of the layer in it, of what kind the layer is) for every weight."""
    for name in state:
        if match := re.fullmatch(r"(input|output)_blocks\.(\d+)\.(\d+)\.(\w+)(\..*)?", name):
            yield match[1], int(match[2]), int(match[3]), match[4]


def _resampling(state: Mapping[str, Tensor]) -> tuple[str, int]:
    """How the network changes resolution, and how many blocks a level has on the way up, judged by its first level upwards."""
    for resample, kind in (("block", "in_layers"), ("conv", "conv")):
        if ups := [block for way, block, layer, k in _blocks(state) if way == "output" and layer and k == kind]:
            return resample, min(ups) + 1
    inputs = {block for way, block, *_ in _blocks(state) if way == "input"}
    if gaps := set(range(max(inputs, default=0))) - inputs:  # pooling has no weights
        return "pool", min(gaps)
    return "block", max(len(inputs), 1)  # one resolution: it never changes


# What DhariwalUNet fixes: the rules of its heads and normalisation groups, c_noise as it is, and how noise and resolution enter.
_DHARIWAL: dict[str, Any] = {"head_channels": 64, "group": 4, "max_groups": 32, "time_scale": 1.0, "float32_freqs": True}
_PLAIN = {"scale_shift": True, "resample": "block", "patch": 1}
_EDM_COMMON = {"img_resolution": 32, "in_channels": 3, "out_channels": 3, "label_dim": 0, "augment_dim": 0, "label_dropout": 0.0}
_EDM_DEFAULTS: dict[str, dict[str, Any]] = {
    "SongUNet": {
        **_EDM_COMMON,
        "model_channels": 128,
        "channel_mult": [1, 2, 2, 2],
        "channel_mult_emb": 4,
        "num_blocks": 4,
        "attn_resolutions": [16],
        "dropout": 0.1,
        "embedding_type": "positional",
        "channel_mult_noise": 1,
        "encoder_type": "standard",
        "decoder_type": "standard",
        "resample_filter": [1, 1],
    },
    "DhariwalUNet": {
        **_EDM_COMMON,
        "model_channels": 192,
        "channel_mult": [1, 2, 3, 4],
        "channel_mult_emb": 4,
        "num_blocks": 3,
        "attn_resolutions": [32, 16, 8],
        "dropout": 0.1,
    },
}


def _alike(value: Any, example: Any) -> bool:
    """Whether ``value`` is of the example's kind: text, number at least 0, or list of whole numbers above 0."""
    if isinstance(example, list):
        return isinstance(value, list | tuple) and all(_alike(v, 1) and v > 0 for v in value)
    if isinstance(example, str) or isinstance(value, bool | str):
        return isinstance(example, str) and isinstance(value, str)
    return isinstance(value, int if isinstance(example, int) else int | float) and value >= 0


def from_edm(
    class_name: str, init_kwargs: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[Config, tuple[int, int, int], int, State]:
    """Configuration, sample shape, number of classes and cmlab's state of an NVlabs network.

    class_name: "SongUNet" or "DhariwalUNet". init_kwargs: its arguments as in the published pickles; what is absent has NVlabs'
        default. state: its state dict, with or without the prefix "model." of the preconditioner around it.

    The noise labels stay ln(sigma) / 4, so a DhariwalUNet becomes a UNet of time_scale 1. label_dropout is a fact of training: with
    it above 0 the network knows label -1, "no class". Raises ValueError for another class, unknown arguments, or names and shapes
    that do not fit.
    """
    if class_name not in _EDM_DEFAULTS:
        raise ValueError(f"cannot convert a network of class {class_name}: {' and '.join(_EDM_DEFAULTS)} can be")
    given = dict(init_kwargs)
    if unknown := given.keys() - _EDM_DEFAULTS[class_name].keys():
        raise ValueError(f"{class_name} has no setting {_some(unknown)}")
    if lacking := {"img_resolution", "in_channels", "out_channels"} - given.keys():
        raise ValueError(f"the arguments of {class_name} lack {_some(lacking)}")
    kw = {**_EDM_DEFAULTS[class_name], **given}
    for name, value in kw.items():
        if not _alike(value, _EDM_DEFAULTS[class_name][name]):
            raise ValueError(f"{name} of {class_name} should look like {_EDM_DEFAULTS[class_name][name]!r}, got {value!r:.60}")
    c_in, c_out, size = kw["in_channels"], kw["out_channels"], kw["img_resolution"]
    if c_out not in (c_in, 2 * c_in):
        raise ValueError(
            f"a network from {c_in} to {c_out} channels is no denoiser: as many, or twice as many with a variance, are"
        )
    common: dict[str, Any] = {
        "channels": kw["model_channels"],
        "mult": tuple(kw["channel_mult"]),
        "blocks": kw["num_blocks"],
        "attention": tuple(kw["attn_resolutions"]),
        "emb": 0 if kw["channel_mult_emb"] == 4 else kw["model_channels"] * kw["channel_mult_emb"],
        "dropout": float(kw["dropout"]),
        "variance": c_out != c_in,
        "augment": kw["augment_dim"],
    }
    if all(name.startswith("model.") for name in state):
        state = {name.removeprefix("model."): value for name, value in state.items()}
    state = {name: value for name, value in state.items() if not name.endswith("resample_filter")}
    if class_name == "SongUNet":
        config: Config = SongUNetConfig(
            embedding=kw["embedding_type"],
            noise_mult=kw["channel_mult_noise"],
            encoder=kw["encoder_type"],
            decoder=kw["decoder_type"],
            fir=tuple(kw["resample_filter"]),
            **common,
        )
    else:
        config = UNetConfig(**_DHARIWAL, **common)
    shape, classes = (c_in, size, size), kw["label_dim"]
    if isinstance(config, UNetConfig):
        names = _dhariwal_names(config, shape, classes)
        if missing := names.keys() - state.keys():
            raise ValueError(f"the weights lack {_some(missing)}, which this network has")
        if surplus := state.keys() - names.keys():
            raise ValueError(f"the weights have {_some(surplus)}, which this network has not")
        state = {new: dhariwal_value(new, state[old], to_cmlab=True) for old, new in names.items()}
    check_state(state, config, shape, classes)
    return config, shape, classes, dict(state)


def to_edm(config: Config, shape: tuple[int, ...], classes: int, state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any], State]:
    """Class name, arguments and state dict (without "model.") of the NVlabs network that equals cmlab's; inverse of `from_edm`.

    Raises ValueError for a UNet with settings that DhariwalUNet has not, or a SongUNet with several heads.
    """
    check_state(state, config, shape, classes)
    name, filters = "SongUNet", (1, 1)
    kwargs: dict[str, Any] = {
        "img_resolution": shape[1],
        "in_channels": shape[0],
        "out_channels": shape[0] * (2 if config.variance else 1),
        "label_dim": classes,
        "augment_dim": config.augment,
        "model_channels": config.channels,
        "channel_mult": list(config.mult),
        "channel_mult_emb": (config.emb or 4 * config.channels) // config.channels,
        "num_blocks": config.blocks,
        "attn_resolutions": list(config.attention),
        "dropout": config.dropout,
    }
    if kwargs["channel_mult_emb"] * config.channels != (config.emb or 4 * config.channels):
        raise ValueError(f"NVlabs' networks embed in a multiple of channels ({config.channels}), this one in {config.emb}")
    if isinstance(config, SongUNetConfig):
        if config.heads != 1:
            raise ValueError(f"NVlabs' SongUNet has one attention head, this one {config.heads}")
        filters = config.fir
        kwargs |= {
            "embedding_type": config.embedding,
            "channel_mult_noise": config.noise_mult,
            "encoder_type": config.encoder,
            "decoder_type": config.decoder,
            "resample_filter": list(filters),
        }
        out = dict(state)
    else:
        name = "DhariwalUNet"
        if other := [f for f, value in (_DHARIWAL | _PLAIN).items() if getattr(config, f) != value]:
            raise ValueError(f"NVlabs' DhariwalUNet has other settings of {_some(other)}: this UNet cannot be written as one")
        names = _dhariwal_names(config, shape, classes)
        out = {old: dhariwal_value(new, state[new], to_cmlab=False) for old, new in names.items()}
    taps = torch.tensor(filters, dtype=torch.float32)
    kernel = (torch.outer(taps, taps) / taps.sum() ** 2)[None, None]
    for block in _resampling_blocks(config, shape):
        for layer in ("",) if "_aux_" in block else ("conv0.", "skip."):
            out[f"{block}.{layer}resample_filter"] = kernel.clone()
    return name, kwargs, out


def _resampling_blocks(config: Config, shape: tuple[int, ...]) -> list[str]:
    """NVlabs' names of the parts that change resolution."""
    sides = [shape[1] >> level for level in range(1, len(config.mult))]
    names = [f"enc.{s}x{s}_down" for s in sides] + [f"dec.{2 * s}x{2 * s}_up" for s in sides]
    if isinstance(config, SongUNetConfig):
        if config.encoder != "standard":
            names += [f"enc.{s}x{s}_aux_{'down' if config.encoder == 'skip' else 'residual'}" for s in sides]
        if config.decoder == "skip":
            names += [f"dec.{2 * s}x{2 * s}_aux_up" for s in sides]
    return names


def _dhariwal_names(config: UNetConfig, shape: tuple[int, ...], classes: int) -> dict[str, str]:
    """DhariwalUNet's name of every weight, and the UNet's."""
    new_names = expected_state(config, shape, classes)
    levels, per_level = range(len(config.mult)), config.blocks + 1
    blocks: dict[str, str] = {}  # where the UNet has a residual block, and NVlabs' name of it
    for level in levels:
        at = f"{shape[1] >> level}x{shape[1] >> level}"
        blocks[f"input_blocks.{level * per_level}.0"] = f"enc.{at}_{'down' if level else 'conv'}"
        for i in range(config.blocks):
            blocks[f"input_blocks.{level * per_level + 1 + i}.0"] = f"enc.{at}_block{i}"
    at = f"{shape[1] >> levels[-1]}x{shape[1] >> levels[-1]}"
    blocks |= {
        "middle_block.0": f"dec.{at}_in0",
        f"middle_block.{2 if 'middle_block.1.qkv.weight' in new_names else 1}": f"dec.{at}_in1",
    }
    for j, level in enumerate(reversed(levels)):
        at = f"{shape[1] >> level}x{shape[1] >> level}"
        for i in range(per_level):
            blocks[f"output_blocks.{j * per_level + i}.0"] = f"dec.{at}_block{i}"
        if j:  # it ends the level before
            last = f"output_blocks.{j * per_level - 1}"
            blocks[f"{last}.{2 if f'{last}.1.qkv.weight' in new_names else 1}"] = f"dec.{at}_up"
    names: dict[str, str] = {}
    for new in new_names:
        parts = new.split(".")
        depth = {"input_blocks": 3, "output_blocks": 3, "middle_block": 2}.get(parts[0], 0)
        place, layer, kind = ".".join(parts[:depth]), ".".join(parts[depth:-1]), parts[-1]
        if depth:  # an attention stands after its residual block
            block = blocks.get(place) or blocks[".".join([*parts[: depth - 1], "0"])]
            names[".".join([block, *([LAYERS[layer]] if layer else []), kind])] = new
        else:
            names[f"{LAYERS[layer]}.{kind}"] = new
    return names


def dhariwal_value(new: str, value: Tensor, to_cmlab: bool) -> Tensor:
    """One weight in the other layout; ``new`` is the UNet's name of it.

    Attention rows [head][channel][q, k, v] become [q|k|v][head][channel], or back.
    """
    if new == "label_emb.weight":
        return value.T.contiguous()
    if new.endswith(("qkv.weight", "proj_out.weight")):
        value = value.flatten(1)[..., None] if to_cmlab else value[..., None]
    if "qkv." in new:
        rows = value.unflatten(0, (-1, 3) if to_cmlab else (3, -1))
        value = rows.transpose(0, 1).flatten(0, 1)
    return value
