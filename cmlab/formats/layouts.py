"""Published state dicts in cmlab's terms, and openai's back. Pure functions of dictionaries of tensors; nothing here reads a file.

openai's consistency models and guided-diffusion have cmlab's own names (`UNet`); their configuration is read off the shapes.
NVlabs' SongUNet has cmlab's names too (`SongUNet`); their DhariwalUNet is a `UNet` in other words and another channel order.
Every problem is a ValueError of one line.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from ..networks.adm import UNetConfig
from ..networks.song import SongUNetConfig
from .checkpoints import check_names, check_state, expected_state, some

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


class Obstacle(NamedTuple):
    """Why another program has no such network, and the settings of one that it has: none where no setting helps."""

    reason: str
    choose: Mapping[str, Any] = {}


def refuse(program: str, found: Sequence[Obstacle]) -> None:
    """Raise ValueError with all reasons, and with the options of 'cmlab train' for a network that ``program`` has."""
    if not found:
        return
    options = [f"--network.{_option(name, value)}" for one in found for name, value in one.choose.items()]
    hint = f". For a network that it has, train with {' '.join(options)}" if options else ""
    raise ValueError(f"{program} has no such network: {'; '.join(one.reason for one in found)}{hint}")


def _option(name: str, value: Any) -> str:
    name = name.replace("_", "-")
    if isinstance(value, bool):
        return name if value else f"no-{name}"
    values = value if isinstance(value, tuple) else (value,)
    return " ".join([name, *(f"{v:g}" if isinstance(v, float) else str(v) for v in values)])


def common_obstacles(config: UNetConfig) -> Iterator[Obstacle]:
    """What neither OpenAI's code nor diffusers has in a network."""
    if config.time_scale != 1000:
        yield Obstacle(f"its time_scale is {config.time_scale:g}, not 1000", {"time_scale": 1000.0})
    if config.patch > 1:
        yield Obstacle("it works on patches of pixels", {"patch": 1})
    if config.float32_freqs:
        yield Obstacle("its frequencies are NVlabs'", {"float32_freqs": False})
    if config.augment > 0:
        yield Obstacle("it takes augmentation labels", {"augment": 0})


def openai_obstacles(config: UNetConfig) -> Iterator[Obstacle]:
    """All that OpenAI's code does not have in this network."""
    yield from common_obstacles(config)
    if config.emb not in (0, 4 * config.channels):
        yield Obstacle("its embedding is not four times its first level", {"emb": 0})
    narrow = int(config.channels * min(config.mult))
    if config.max_groups != 32 or narrow // config.group < 32:
        wider = {} if narrow % 32 == 0 else {"channels": 32 * math.ceil(config.channels / 32)}
        yield Obstacle("its normalisations do not all have 32 groups", {"group": 1, "max_groups": 32, **wider})


def from_openai(state: Mapping[str, Tensor]) -> State:
    """cmlab's state of a U-Net of openai/consistency_models (1x1 convolutions (3C, C, 1, 1)) or guided-diffusion (3C, C, 1).

    Attention channels are ordered `[q|k|v][head]`, as use_new_attention_order=True has them in guided-diffusion.
    """
    pointwise = ("qkv.weight", "proj_out.weight")
    return {name: value[..., 0] if name.endswith(pointwise) and value.ndim == 4 else value for name, value in state.items()}


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


def _check_channels(c_in: int, c_out: int) -> None:
    if c_out not in (c_in, 2 * c_in):
        raise ValueError(f"a network from {c_in} to {c_out} channels is no denoiser: it gives as many, or twice, with a variance")


def openai_config(state: Mapping[str, Tensor], image_size: int, **facts: Any) -> tuple[UNetConfig, tuple[int, int, int], int]:
    """Configuration, sample shape and number of classes of a published guided-diffusion U-Net, read off its weights.

    ``facts`` are fields of UNetConfig that leave no trace in the weights; by default those of the ImageNet-64 and LSUN consistency
    models: 64 channels per head, 32 groups, c_noise * 1000, dropout 0. Nets trained on integer times want ``time_scale=1``. Raises
    ValueError where names or shapes are not those of such a network.
    """
    state = from_openai(state)
    facts = {"head_channels": 0 if facts.get("heads") or facts.get("heads_up") else 64, **facts}
    facts = {"group": 1, "max_groups": 32, "time_scale": 1000.0, **facts}
    emb, channels = (_size(state, "time_embed.0.weight", dim) for dim in (0, 1))
    c_in, c_out = _size(state, "input_blocks.0.0.weight", 1), _size(state, "out.2.weight")
    _check_channels(c_in, c_out)
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
        raise ValueError(f"{some(unknown)}: the weights themselves say that, or no U-Net has it")
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

    class_name: "SongUNet" or "DhariwalUNet", which becomes a UNet of time_scale 1. init_kwargs: its arguments as in the published
        pickles; what is absent has NVlabs' default. state: its state dict, with or without the preconditioner's prefix "model.".

    Raises ValueError for another class, unknown arguments, or names and shapes that do not fit.
    """
    if class_name not in _EDM_DEFAULTS:
        raise ValueError(f"cannot convert a network of class {class_name}: {' and '.join(_EDM_DEFAULTS)} can be")
    given = dict(init_kwargs)
    if unknown := given.keys() - _EDM_DEFAULTS[class_name].keys():
        raise ValueError(f"{class_name} has no setting {some(unknown)}")
    if lacking := {"img_resolution", "in_channels", "out_channels"} - given.keys():
        raise ValueError(f"the arguments of {class_name} lack {some(lacking)}")
    kw = {**_EDM_DEFAULTS[class_name], **given}
    for name, value in kw.items():
        if not _alike(value, _EDM_DEFAULTS[class_name][name]):
            raise ValueError(f"{name} of {class_name} should look like {_EDM_DEFAULTS[class_name][name]!r}, got {value!r:.60}")
    c_in, c_out, size = kw["in_channels"], kw["out_channels"], kw["img_resolution"]
    _check_channels(c_in, c_out)
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
    shape, classes = (c_in, size, size), kw["label_dim"]
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
        names = _dhariwal_names(config, shape, classes)
        check_names(state, names)
        state = {new: dhariwal_value(new, state[old]) for old, new in names.items()}
    check_state(state, config, shape, classes)
    return config, shape, classes, dict(state)


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


def dhariwal_value(new: str, value: Tensor) -> Tensor:
    """One weight of a DhariwalUNet in the UNet's layout; ``new`` is the UNet's name of it.

    Attention rows `[head][channel][q, k, v]` become `[q|k|v][head][channel]`.
    """
    if new == "label_emb.weight":
        return value.T.contiguous()
    if new.endswith(("qkv.weight", "proj_out.weight")):
        value = value.flatten(1)[..., None]
    if "qkv." in new:
        value = value.unflatten(0, (-1, 3)).transpose(0, 1).flatten(0, 1)
    return value
