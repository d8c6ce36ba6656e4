"""Checkpoints of other programs in, and out again. What is read is data: nothing in it is ever executed.

Read: OpenAI's consistency models (.pt), NVlabs' EDM and ECT (.pkl), diffusers' consistency folders, and cmlab's own files.
Written: cmlab's own files, diffusers' folders and OpenAI's .pt. Weights keep every bit, unless half precision is asked for.
"""

import json
import math
import os
import re
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..base.files import PART, beside, is_sparse, user_path, write_whole
from ..denoiser import CONSISTENCY, Denoiser, Precond, Preconditioning
from ..methods.scalings import IDDPMPrecond, VEPrecond, VPPrecond
from ..networks.adm import IMAGENET64, LSUN256, UNetConfig
from . import checkpoints, header, unpickle
from .checkpoints import SUFFIX, CheckpointError, build, one_line, skeleton
from .diffusers_layout import diffusers_settings, from_diffusers, obstacles, read_diffusers_settings, to_diffusers
from .layouts import Obstacle, from_edm, from_openai, openai_config, openai_obstacles, refuse, to_openai

MAX_JSON = 1 << 20  # bytes; a published config.json has about 1 kB
PUBLISHED = {64: IMAGENET64, 256: LSUN256}  # OpenAI's consistency models by size of image
WEIGHTS, _PIPELINE = "diffusion_pytorch_model", "ConsistencyModelPipeline"
_PARTS = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "CMStochasticIterativeScheduler"]}
# What diffusers' scheduler has besides the preconditioning, with its defaults; kept in "about" on the way through.
_SCHEDULER = {"num_train_timesteps": 40, "sigma_max": 80.0, "rho": 7.0, "s_noise": 1.0, "clip_denoised": True}
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError, OSError)


@dataclass(frozen=True)
class Facts:
    """What an OpenAI .pt file does not say about itself. None: not given.

    kind: "edm" (a diffusion model) or "consistency". sigma_min: for consistency models, 0.002 if not given.
    image_size, and heads (with heads_up, if it differs on the way up) or head_channels: needed for networks other than those that
        OpenAI published.
    """

    kind: str | None = None
    sigma_min: float | None = None
    image_size: int | None = None
    heads: int | None = None
    head_channels: int | None = None
    heads_up: int | None = None

    def given(self) -> dict[str, Any]:
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def refuse(self, who: str) -> None:
        """Raise ValueError for options that the file answers by itself; ``who`` names the file."""
        for name in self.given():
            raise ValueError(f"{who} says that itself: leave out --{name.replace('_', '-')}, which is for OpenAI's .pt files")

    def precond(self) -> Precond:
        if self.kind not in ("edm", "consistency"):
            raise ValueError("weights alone do not say what they were trained for: add --kind edm or --kind consistency")
        if self.kind == "edm":
            if self.sigma_min is not None:
                raise ValueError("--sigma-min belongs to --kind consistency; a diffusion model has none")
            return Precond()
        lowest = CONSISTENCY.sigma_min if self.sigma_min is None else self.sigma_min
        if not (math.isfinite(lowest) and lowest > 0):
            raise ValueError(f"--sigma-min must be a number above 0, got {lowest}")
        return Precond(sigma_min=lowest)


def read(path: str | Path, facts: Facts | None = None) -> tuple[Denoiser, dict[str, Any]]:
    """The model (float32, in eval mode) in a file or folder of any known format, and what there is to say about it.

    Raises CheckpointError, naming the file and the way out, for everything that is no whole checkpoint; ValueError for facts that
    are missing or that this format does not need.
    """
    path, facts = user_path(path), facts or Facts()
    reader = _reader(path)
    if reader is not _read_openai:
        facts.refuse(str(path))
    try:
        model, about = reader(path, facts)
    except CheckpointError:
        raise
    except _UNREADABLE as error:
        # A message that already names an option is its own way out.
        again = "See" if "--" in str(error) else "Download or copy it again, or see"
        raise CheckpointError(f"{path} cannot be converted: {one_line(error)}. {again} 'cmlab convert --help'") from error
    return model.eval(), about


def write(
    path: str | Path, model: Denoiser, about: dict[str, Any] | None = None, half: bool = False, overwrite: bool = False
) -> Path:
    """Write ``model`` as ``path`` says: NAME.safetensors for cmlab, NAME.pt for OpenAI's code, a folder for diffusers.

    half: 16-bit weights instead of 32. Files are written beside and renamed. Raises CheckpointError where the format has no words
    for this model, or where nothing can be written.
    """
    path, about = user_path(path), about or {}
    writer = check_target(path, overwrite)
    dtype = torch.float16 if half else torch.float32
    try:
        largest = max((float(v.abs().max()) for v in model.state_dict().values() if v.numel()), default=0.0)
        if largest > torch.finfo(dtype).max:
            raise ValueError(f"its largest weight, {largest:.3g}, is too large for 16 bits: leave out --dtype half")
        writer(path, model, about, dtype)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}. Choose another folder") from error
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be written: {error}. NAME.safetensors can hold it as it is") from error
    return path


def check_target(path: Path, overwrite: bool) -> Callable[[Path, Denoiser, dict[str, Any], torch.dtype], object]:
    """The writer for this path; raises CheckpointError, before any work is done, for what cannot or should not be written."""
    writers = {SUFFIX: checkpoints.save, ".pt": _write_openai, "": _write_diffusers}
    if path.suffix not in writers:
        raise CheckpointError(f"{path}: end it in .safetensors (cmlab), .pt (OpenAI) or nothing (a folder for diffusers)")
    folder = path.suffix == ""
    if path.exists() or path.is_symlink():
        if folder and not (path / "model_index.json").is_file() and not (path.is_dir() and not any(path.iterdir())):
            raise CheckpointError(f"{path} exists and is no diffusers folder: choose another name")
        if not folder and not path.is_file():
            raise CheckpointError(f"{path} is no file: choose another name")
        if not overwrite and (not folder or any(path.iterdir())):
            raise CheckpointError(f"{path} exists: choose another name, or pass --overwrite")
    return writers[path.suffix]


def convert(
    source: str | Path, target: str | Path, facts: Facts | None = None, half: bool = False, overwrite: bool = False
) -> Denoiser:
    """``read`` and ``write`` in one: nothing is written unless all of ``source`` could be read."""
    source, target = user_path(source), user_path(target)
    check_target(target, overwrite)
    if source.exists() and target.exists() and source.samefile(target):
        raise CheckpointError(f"{target} is the source itself: choose another name")
    model, about = read(source, facts)
    write(target, model, about, half, overwrite)
    return model


# --- reading -------------------------------------------------------------------------------------------------------------


def _reader(path: Path) -> Callable[[Path, Facts], tuple[Denoiser, dict[str, Any]]]:
    """What the content, not the name, says about the format."""
    if path.is_dir():
        return _read_diffusers
    if not path.is_file():
        checkpoints.resolve(path)  # a bundled name, or a CheckpointError with the way out
        return _read_cmlab
    try:
        with open(path, "rb") as file:
            start = file.read(16)
        if is_sparse(path):
            raise CheckpointError(f"{path} is mostly a hole that was never written: download or copy it again")

    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}. Check its permissions") from error
    if unpickle.begins_torch_file(start):
        return _read_openai
    # The length of a safetensors header may begin with the byte that begins a pickle.
    if (start[5:8] == b"\0\0\0" and start[8:9] == b"{") or path.suffix == SUFFIX:
        return _read_cmlab
    if start[:1] == b"\x80":
        return lambda path, _: _from_nvlabs(unpickle.read_pickle(path), path)
    what = "is empty" if not start else "is no checkpoint of a kind that cmlab knows"
    raise CheckpointError(f"{path} {what}: download or copy it again, and see 'cmlab convert --help' for what can be read")


def _read_cmlab(path: Path, _: Facts) -> tuple[Denoiser, dict[str, Any]]:
    model, meta = checkpoints.load(path)
    return model, meta.get("about", {})


def _read_openai(path: Path, facts: Facts) -> tuple[Denoiser, dict[str, Any]]:
    content = unpickle.read_torch(path)
    if _module(content) is not None:  # a training state of NVlabs' code
        facts.refuse("a file of NVlabs'")
        return _from_nvlabs(content, path)
    precond = facts.precond()
    state = _state(content, path)
    config, shape, classes = _openai_network(state, facts)
    return build(config, precond, shape, classes, from_openai(state)), _about(path, "OpenAI .pt")


def _openai_network(state: dict[str, Tensor], facts: Facts) -> tuple[UNetConfig, tuple[int, int, int], int]:
    given = {k: v for k, v in facts.given().items() if k not in ("kind", "sigma_min")}
    if lacking := [n for n in ("time_embed.0.weight", "input_blocks.0.0.weight", "out.2.weight") if n not in state]:
        raise ValueError(f"it is no U-Net of OpenAI's: the weights {lacking[0]} are missing")
    if not given:
        for size, published in PUBLISHED.items():
            with suppress(ValueError), skeleton(state):
                if (found := openai_config(state, size))[0] == published:
                    return found
        raise ValueError("it is none of the networks that OpenAI published: add --image-size, and --heads or --head-channels")
    size = given.pop("image_size", None)
    if size is None or ("heads" in given) == ("head_channels" in given) or ("heads_up" in given and "heads" not in given):
        raise ValueError("give --image-size, and either --head-channels or --heads (and --heads-up): the weights do not say them")
    if min(size, *given.values()) < 1:
        raise ValueError("--image-size, --heads, --heads-up and --head-channels must be at least 1")
    with skeleton(state):
        found = openai_config(state, size, **given)
    widths = {len(value) // 3 for name, value in state.items() if name.endswith("qkv.weight")}
    each = given.get("head_channels", 1)
    if any(w % each for w in widths):
        raise ValueError(f"--head-channels {each} does not divide the widths {sorted(widths)} of its attention")
    return found


def _state(content: Any, path: Path) -> dict[str, Tensor]:
    """A state dict whose names are names and whose tensors are no larger than the file."""
    state = unpickle.tensors(content)
    if sum(v.numel() * v.element_size() for v in state.values()) > path.stat().st_size:  # views of one storage, about to be copied
        raise ValueError("its tensors claim more values than the file holds")
    for name in state:
        # Blocks are counted: one named 1000000000 would make a loop of that length.
        if not re.fullmatch(r"[\w.]{1,200}", name) or any(int(n) > 999 for n in re.findall(r"(?<!\w)\d+(?!\w)", name)):
            raise ValueError(f"{name[:60]!r} is not the name of a network's weights")
    return state


_PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
_NVLABS_PRECONDS: dict[str, Callable[[dict[str, Any]], Preconditioning]] = {
    "EDMPrecond": lambda k: Precond(k.get("sigma_data", 0.5)),  # its sigma_min is that of the samplers
    "ECMPrecond": lambda k: Precond(k.get("sigma_data", 0.5), k.get("sigma_min", 0.003)),
    "VPPrecond": lambda k: VPPrecond(k.get("beta_d", 19.9), k.get("beta_min", 0.1), k.get("M", 1000), k.get("epsilon_t", 1e-5)),
    "VEPrecond": lambda k: VEPrecond(k.get("sigma_min", 0.02), k.get("sigma_max", 100.0)),
    "iDDPMPrecond": lambda k: IDDPMPrecond(k.get("C_1", 0.001), k.get("C_2", 0.008), k.get("M", 1000)),
}


class _Persistent(NamedTuple):
    """An object of NVlabs' pickles: the name of its class, how it was made, and the module that it is."""

    name: str
    settings: dict[str, Any]
    state: dict[Any, Any]


def _module(content: Any) -> _Persistent | None:
    """The network of a snapshot ("ema") or training state ("net"); None where there is none."""
    entries = unpickle.plain_dict(content) or {}
    return _persistent(entries.get("ema", entries.get("net")))


def _persistent(value: Any) -> _Persistent | None:
    if not isinstance(value, unpickle.Call) or value.path != _PERSISTENT or len(value.args) != 1:
        return None
    meta = unpickle.plain_dict(value.args[0]) or {}
    state = unpickle.plain_dict(meta.get("state")) or {}
    settings = unpickle.plain_dict(state.get("_init_kwargs")) or {}
    if not isinstance(meta.get("class_name"), str) or state.get("_init_args") not in ((), [], None):
        raise ValueError("its network does not say how it was made")
    return _Persistent(meta["class_name"], settings, state)


def _weights(module: dict[Any, Any]) -> dict[str, Tensor]:
    """The state dict of a pickled module, in the order of its submodules."""
    out: dict[str, Tensor] = {}
    waiting, visited = [("", module)], 0
    while waiting:
        prefix, state = waiting.pop()
        visited += 1
        if visited > 10_000:  # a module that holds itself, or another one many times
            raise ValueError("it has far more parts than a network")
        for kind in ("_parameters", "_buffers"):
            values = unpickle.plain_dict(state.get(kind)) or {}
            out |= {f"{prefix}{name}": value for name, value in values.items() if isinstance(value, Tensor)}
        for name, child in reversed((unpickle.plain_dict(state.get("_modules")) or {}).items()):
            inner = _persistent(child)
            below = inner.state if inner else unpickle.plain_dict(child.state) if isinstance(child, unpickle.Call) else None
            waiting.append((f"{prefix}{name}."[-200:], below or {}))
    return out


def _from_nvlabs(content: Any, path: Path) -> tuple[Denoiser, dict[str, Any]]:
    outer = _module(content)
    if outer is None:
        raise ValueError("it has no network under 'ema' or 'net', as the snapshots of EDM and ECT have")
    if outer.name not in _NVLABS_PRECONDS:
        raise ValueError(f"its preconditioning is {outer.name[:40]!r}, not one of {', '.join(_NVLABS_PRECONDS)}")
    inner = _persistent((unpickle.plain_dict(outer.state.get("_modules")) or {}).get("model"))
    if inner is None:
        raise ValueError(f"its {outer.name} has no network inside")
    settings = {k: _setting(v) for k, v in inner.settings.items()}
    state = _state(_weights(inner.state), path)
    with skeleton(state):
        config, shape, classes, weights = from_edm(inner.name, settings, state)
    precond = _NVLABS_PRECONDS[outer.name]({k: _setting(v) for k, v in outer.settings.items() if k not in inner.settings})
    drops = bool(classes) and settings.get("label_dropout", 0) > 0
    return build(config, precond, shape, classes, weights, drops), _about(path, f"NVlabs {outer.name}, {inner.name}")


def _setting(value: Any) -> Any:
    """A plain setting; an object or an absurd number is an error."""
    if isinstance(value, list | tuple) and len(value) <= 64:
        return [_setting(v) for v in value]
    plain = value is None or isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) < 64)
    if not plain or (isinstance(value, float) and math.isnan(value)) or (isinstance(value, int) and abs(value) > 1 << 24):
        raise ValueError("its network was made with settings that are neither numbers nor names")
    return value


def _read_diffusers(path: Path, _: Facts) -> tuple[Denoiser, dict[str, Any]]:
    index = _json(path / "model_index.json", "the folder of a diffusers pipeline has one")
    if index.get("_class_name") != _PIPELINE or any(index.get(part) != names for part, names in _PARTS.items()):
        raise ValueError(f"it is no {_PIPELINE} with {' and '.join(names[1] for names in _PARTS.values())}")
    config, shape, classes = read_diffusers_settings(_json(path / "unet" / "config.json"))
    scheduler = _json(path / "scheduler" / "scheduler_config.json")
    values = {name: _number(scheduler, name, default) for name, default in (("sigma_min", 0.002), ("sigma_data", 0.5))}
    safe, pickled = (path / "unet" / f"{WEIGHTS}{suffix}" for suffix in (SUFFIX, ".bin"))
    if safe.is_file():
        state = load_file(safe)
    elif pickled.is_file():
        state = _state(unpickle.read_torch(pickled), pickled)
    else:
        raise ValueError(f"unet/{safe.name} and unet/{pickled.name} are both missing")
    weights = from_diffusers(state, config, shape[1], classes)
    about = _about(path, "diffusers folder") | {k: scheduler[k] for k in _SCHEDULER if k in scheduler}
    return build(config, Precond(values["sigma_data"], values["sigma_min"]), shape, classes, weights), about


def _json(path: Path, why: str = "part of the pipeline") -> dict[str, Any]:
    """A small JSON object without the numbers that JSON does not have."""
    if not path.is_file():
        raise ValueError(f"{path.name} is missing ({why})")
    if path.stat().st_size > MAX_JSON:
        raise ValueError(f"{path.name} is far larger than a description of a model")
    try:
        return header.parse(path.read_bytes(), finite=True)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _number(settings: Mapping[str, Any], name: str, default: float) -> float:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a number above 0, not {str(value)[:40]}")
    return float(value)


# --- writing -------------------------------------------------------------------------------------------------------------


def _write_openai(path: Path, model: Denoiser, _: dict[str, Any], dtype: torch.dtype) -> None:
    program = "OpenAI's code"
    config, found = _unet(model, program)
    refuse(program, [*found, *openai_obstacles(config)])
    state = OrderedDict((k, v.to(dtype)) for k, v in to_openai(_numbers(model)).items())
    write_whole(path, lambda file: torch.save(state, file))


def _write_diffusers(path: Path, model: Denoiser, about: dict[str, Any], dtype: torch.dtype) -> None:
    """A ConsistencyModelPipeline, which clips its estimate to [-1, 1] at every step: as ``project=`` a clamp does here."""
    program, precond = "diffusers' consistency pipeline", model.precond
    config, found = _unet(model, program)
    if not model.traits.consistency:
        found += [Obstacle("it is a diffusion model, and the pipeline runs consistency models (distil it, by a preset of cd)")]
    refuse(program, [*found, *obstacles(config, model.shape)])
    assert isinstance(precond, Precond)
    settings = diffusers_settings(config, model.shape, model.classes)
    state = to_diffusers(_numbers(model), config, model.shape[1], model.classes)
    scheduler = {name: about.get(name, default) for name, default in _SCHEDULER.items()}
    scheduler |= {"_class_name": _PARTS["scheduler"][1], "sigma_min": precond.sigma_min, "sigma_data": precond.sigma_data}
    texts = {
        "model_index.json": {"_class_name": _PIPELINE, **_PARTS},
        "unet/config.json": settings,
        "scheduler/scheduler_config.json": scheduler,
    }
    weights = f"unet/{WEIGHTS}{SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=path.name, suffix=PART) as folder:
        whole = Path(folder) / "whole"
        with beside(whole / weights) as part:
            save_file({k: v.to(dtype).contiguous().clone() for k, v in state.items()}, part, metadata={"format": "pt"})
        for name, value in texts.items():
            write_whole(whole / name, f"{json.dumps(value, indent=2)}\n".encode())
        if path.is_dir():  # replaced file by file: other things in the folder are not ours to remove
            for name in (weights, *reversed(texts)):
                (path / name).parent.mkdir(exist_ok=True)
                os.replace(whole / name, path / name)
        else:
            os.replace(whole, path)


def _unet(model: Denoiser, program: str) -> tuple[UNetConfig, list[Obstacle]]:
    """The configuration of a U-Net, and what else ``program`` has no words for; raises ValueError for another network."""
    if not isinstance(model.config, UNetConfig) or len(model.shape) != 3:
        raise ValueError(f"{program} has the ADM U-Net on pictures alone, and this is another network (choose --network unet)")
    found = []
    if not isinstance(model.precond, Precond):
        found.append(Obstacle("its preconditioning is neither EDM's nor the consistency model's"))
    if model.drops_labels:
        found.append(Obstacle("it can leave out the label of a conditional model (train with --label-dropout 0)"))
    return model.config, found


def _numbers(model: Denoiser) -> dict[str, Tensor]:
    return {k: v.detach().cpu() for k, v in model.net.state_dict().items()}


def _about(path: Path, what: str) -> dict[str, Any]:
    return {"converted from": f"{path.name} ({what})"}
