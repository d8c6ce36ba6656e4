"""Checkpoints: one safetensors file that knows how to rebuild its model. Nothing in it is ever executed.

The header's metadata holds a JSON text under "cmlab": format, network and its configuration, preconditioning, sample shape,
classes, and whatever the training run wants to say about itself ("about").
"""

import json
import logging
import math
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from ..base.files import RUNS, SUFFIX, own_file, user_path, write_whole
from ..base.suggest import unknown
from ..base.text import printable
from ..denoiser import PRECONDS, Denoiser, Preconditioning, precond_name
from ..networks import NETWORKS, build_network, network_name
from ..noise import SIGMA_MAX
from . import header

FORMAT = 1
PRETRAINED = Path(__file__).parents[1] / "pretrained"


class CheckpointError(ValueError):
    """A checkpoint that cannot be read or written; the message says what to do."""


def pretrained_names() -> list[str]:
    """Names of the checkpoints that ship with the package."""
    return sorted(p.stem for p in PRETRAINED.glob("*" + SUFFIX))


def own_checkpoints() -> list[Path]:
    """The files of the user's own runs, in this folder's ``runs/``."""
    return sorted(RUNS.glob("*" + SUFFIX))


def resolve(name_or_path: str | Path) -> Path:
    """The file of a bundled name ("two-moons-cd") or a path, either with its suffix or without; CheckpointError for none."""
    path = user_path(name_or_path)
    if path.is_file():
        return path
    file = f"{str(path).removesuffix(SUFFIX)}{SUFFIX}"
    if path.parent == Path(".") and (PRETRAINED / file).is_file():
        return PRETRAINED / file
    if Path(file).is_file():
        return Path(file)
    if path.is_dir():
        unfinished = f"holds an unfinished run: end it with 'cmlab train {path.name} --resume', then name {file}"
        has_states = any(path.glob(f"state-*{SUFFIX}"))
        raise CheckpointError(f"{path} {unfinished if has_states else f'is a folder: name the {SUFFIX} file in it'}")
    if path.suffix or path.parent != Path("."):
        near = sorted(other.name for other in path.parent.glob(f"*{SUFFIX}"))[:5] if path.parent.is_dir() else []
        held = f" (its folder holds {', '.join(near)})" if near else ""
        raise CheckpointError(
            f"no checkpoint at {path}{held}: check the path, or take a bundled one ({', '.join(pretrained_names())})"
        )
    raise CheckpointError(unknown("checkpoint", str(name_or_path), pretrained_names()) + " (or give the path of a file)")


def find(name: str | Path, trainable: Collection[str] = ()) -> Path:
    """A checkpoint by path, from this folder's ``runs/``, or among the bundled ones: the user's own run comes first.

    Everywhere the name may stand with its ".safetensors" or without. ``trainable`` are names that "cmlab train" knows. Raises
    CheckpointError for what is not there: one of those has not been trained yet.
    """
    path = user_path(name)
    own = None if path.is_file() else own_file(path)
    # A file that is no model must not keep the bundled one from being used; where there is none, it says what is wrong.
    if own is not None and (any(usable([own])) or not (PRETRAINED / own.name).is_file()):
        return own
    try:
        return resolve(path)
    except CheckpointError as error:
        bare = str(path).removesuffix(SUFFIX)
        if bare in trainable and not path.exists():
            raise CheckpointError(f"{bare} has not been trained yet: run 'cmlab train {bare}' first") from error
        raise


def save(path: str | Path, model: Denoiser, about: dict[str, Any] | None = None, dtype: torch.dtype | None = None) -> Path:
    """Write ``model`` to ``path`` (beside it first, then renamed). ``dtype`` stores the matrices and filters in another precision.

    ``about`` is any JSON-able dictionary: preset, quality, seconds. Raises CheckpointError where the folder cannot be written.
    """
    meta = {
        "format": FORMAT,
        "network": network_name(model.config),
        "config": asdict(model.config),
        "precond": {"kind": precond_name(model.precond), **asdict(model.precond)},  # pyright: ignore[reportArgumentType]
        "shape": list(model.shape),
        "classes": model.classes,
        "drops_labels": model.drops_labels,
        "guidance": model.guidance,
        "about": about or {},
    }
    weights = {}
    for name, value in model.net.state_dict().items():
        # Biases and frequencies are few and keep their precision: a rounded frequency is a wrong one at large noise levels.
        to = dtype if dtype is not None and value.ndim > 1 else value.dtype
        weights[name] = value.detach().cpu().to(to).contiguous()
    return _write(user_path(path), weights, meta)


def keep_about(path: str | Path, about: dict[str, Any]) -> Path:
    """Let a checkpoint say ``about`` of itself from now on; its weights keep their bits. Raises CheckpointError as `save` does."""
    path = resolve(path)
    return _write(path, _read_weights(path), {**read_meta(path), "about": about})


def _write(path: Path, weights: dict[str, Tensor], meta: dict[str, Any]) -> Path:

    try:
        text = json.dumps(meta)
        header.check(text)
        if len(text) > header.MAX_HEADER // 2:
            raise header.HeaderError(f"about: {len(text):,} characters are more than a header holds")
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot say that of itself ({one_line(error)}): change what is given as about") from error
    blob = to_bytes(weights, metadata={"cmlab": text})
    try:
        return write_whole(path, blob)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}. Choose another folder with --out") from error


def read_meta(name_or_path: str | Path) -> dict[str, Any]:
    """The header of a checkpoint, without its weights, whose entries have the types of `header.Header`.

    Raises CheckpointError for a file that is damaged or foreign, or whose header says what no model is.
    """
    path = resolve(name_or_path)
    try:
        text = header.read_text(path, "cmlab")
    except (SafetensorError, OSError, header.HeaderError) as error:
        what = f"is not a readable safetensors file (damaged, cut short or of another kind): {one_line(error)}"
        raise CheckpointError(f"{path} {what}. Copy or train it again") from error
    if text is None:
        raise CheckpointError(f"{path} is a safetensors file of another program (no cmlab header): cmlab cannot rebuild its model")
    try:
        header.check(text)
        return header.parse(text)
    except header.HeaderError as error:
        told = one_line(error)
        if error.entry == "format" and "required" not in told:
            raise CheckpointError(f"{path} has another format than this cmlab's {FORMAT} ({told}): update cmlab") from error
        if error.entry.partition(".")[0] in ("network", "config", "precond", "shape", "classes", "drops_labels", "guidance"):
            raise CheckpointError(f"{path} {_UNKNOWN.format(told)}") from error
        raise CheckpointError(f"{path} has a damaged cmlab header ({told}): copy or train it again") from error


_UNKNOWN = "describes a model that this cmlab does not know ({}): update cmlab, or --import the module that registers it"
# What a description of a model can raise while something is made of it.
_WRONG = (LookupError, AttributeError, ArithmeticError, TypeError, NameError, ValueError, RuntimeError, MemoryError, RecursionError)


def _described(meta: dict[str, Any]) -> tuple[Any, Preconditioning]:
    """The configuration of the network and the preconditioning of a header; raises one of _WRONG for those that there are not."""
    # Files from before the MLP's time_scale was a setting had 4.
    settings = ({"time_scale": 4.0} if meta["network"] == "mlp" else {}) | meta["config"]
    scalings = dict(meta["precond"])
    precond = header.make(PRECONDS.record(scalings.pop("kind", "karras")).value, scalings)
    low, high = precond.levels
    if not 0 <= low < min(high, SIGMA_MAX):
        raise ValueError(f"its noise levels go from {low:g} to {high:g}")
    return header.make(NETWORKS.record(meta["network"]).facts["config"], settings), precond


def usable(paths: Iterable[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Those of ``paths`` that hold a checkpoint whose header fits its weights (none is read), and that; the log names the rest."""
    for path in paths:
        with suppress(OSError):  # it has gone
            stat = path.stat()
            if (meta := _looked_at(path, stat.st_mtime_ns, stat.st_size)) is not None:
                yield path, meta


@lru_cache(maxsize=1024)
def _looked_at(path: Path, *_stamp: int) -> dict[str, Any] | None:

    try:
        meta = read_meta(path)
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        if wrong := [name for name, part in slices.items() if not part.get_dtype().startswith(("F", "BF"))]:
            raise WeightsError(f"{some(wrong)}: numbers of the kind {slices[wrong[0]].get_dtype()}")
        weights = {name: torch.empty(part.get_shape(), device="meta") for name, part in slices.items()}
        _check_fit(weights, _described(meta)[0], meta["shape"], meta["classes"])
        return meta
    except _WRONG as error:
        logging.getLogger(__name__).warning("%s is left out: %s", path, one_line(error))
        return None


def _read_weights(path: Path) -> dict[str, Tensor]:

    try:
        return load_file(path)
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {one_line(error)}. Copy or train it again") from error


def load(name_or_path: str | Path, device: torch.device | str = "cpu") -> tuple[Denoiser, dict[str, Any]]:
    """The model (float32, in eval mode) and its header. Takes a path or the name of a bundled checkpoint."""
    path = resolve(name_or_path)
    meta = read_meta(path)
    weights = _read_weights(path)
    try:
        config, precond = _described(meta)
        labels = {key: meta[key] for key in ("drops_labels", "guidance") if key in meta}  # older files lack them
        model = build(config, precond, meta["shape"], meta["classes"], weights, **labels)
    except WeightsError as error:
        wrong = f"holds weights that do not fit its own header: {one_line(error)}"
        raise CheckpointError(f"{path} {wrong}. Copy or train it again") from error
    except _WRONG as error:
        raise CheckpointError(f"{path} {_UNKNOWN.format(one_line(error))}") from error
    return model.to(device).eval(), meta


class WeightsError(ValueError):
    """Weights and the network that they are for differ."""


def build(
    config: Any,
    precond: Preconditioning,
    shape: Sequence[int],
    classes: int,
    weights: Mapping[str, Tensor],
    drops_labels: bool = False,
    guidance: float = 1.0,
) -> Denoiser:
    """A Denoiser (float32) with the network of ``config`` and ``weights``, none of which need be trusted.

    The description is compared with the weights before memory is spent on it. Raises WeightsError where names, shapes or kinds of
    numbers differ, or numbers are not finite; ValueError, TypeError or RuntimeError where there is no such network.
    """
    _check_fit(weights, config, shape, classes)
    numbers = {}
    for name, value in weights.items():
        if not value.is_floating_point():
            raise WeightsError(f"{name} has numbers of the kind {value.dtype}")
        numbers[name] = value.float()
        if not numbers[name].isfinite().all():
            raise WeightsError(f"{name} has numbers that are not finite, or too large for 32 bits")
    with _WithoutNumbers():  # the numbers come from the weights
        net = build_network(config, tuple(shape), classes)
    net.load_state_dict(numbers)
    return Denoiser(net, precond, shape, classes, drops_labels, guidance)


def _check_fit(weights: Mapping[str, Tensor], config: Any, shape: Sequence[int], classes: int) -> None:
    """Raise WeightsError where they differ, and what a network raises that cannot be; costs no memory."""
    if not all(type(n) is int and n > 0 for n in shape) or math.prod(shape) > header.MAX_NUMBERS:
        raise ValueError(f"samples of shape {str(list(shape))[:80]}, a sample has at most {header.MAX_NUMBERS:,} numbers")
    with skeleton(weights):
        check_state(weights, config, tuple(shape), classes)


def expected_state(config: Any, shape: tuple[int, ...], classes: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights of the network that ``config`` describes; uses no memory."""
    with torch.device("meta"), _WithoutNumbers():
        net = build_network(config, shape, classes)
    return {name: tuple(value.shape) for name, value in net.state_dict().items()}


def check_state(state: Mapping[str, Tensor], config: Any, shape: tuple[int, ...], classes: int) -> None:
    """Raise WeightsError unless ``state`` has exactly the names and shapes of that network."""
    want = expected_state(config, shape, classes)
    check_names(state, want)
    if wrong := [name for name, size in want.items() if tuple(state[name].shape) != size]:
        raise WeightsError(f"{some(wrong)}: shape {tuple(state[wrong[0]].shape)} of {wrong[0]} should be {want[wrong[0]]}")


def check_names(names: Collection[str], want: Collection[str]) -> None:
    """Raise WeightsError unless both are the same names."""
    if missing := set(want) - set(names):
        raise WeightsError(f"the weights lack {some(missing)}, which this network has")
    if surplus := set(names) - set(want):
        raise WeightsError(f"the weights have {some(surplus)}, which this network has not")


def some(names: Iterable[str]) -> str:
    """The first three names in words, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


class _WithoutNumbers(TorchFunctionMode):
    """Skips the initialisation of new layers."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        if func is torch.linspace and torch.get_default_device().type == "meta":
            return torch.empty(args[2] if len(args) > 2 else (kwargs or {})["steps"])  # linspace would import torch's compiler
        return func(*args, **(kwargs or {}))


@contextmanager
def skeleton(weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Networks built inside have no numbers and take no memory; one that ``weights`` cannot be for is a WeightsError at once."""
    sizes, left = {v.numel() for v in weights.values()}, 4 * len(weights)  # room to build it a few times
    thread = threading.get_ident()  # the hook sees what all threads build

    def check(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal left
        if parameter is not None and threading.get_ident() == thread:
            left -= 1
            if left < 0 or parameter.numel() not in sizes:
                shape = tuple(parameter.shape)
                raise WeightsError(f"no weights fit the {name} of shape {shape} of a {type(module).__name__} of this network")

    hook = register_module_parameter_registration_hook(check)
    try:
        with torch.device("meta"), _WithoutNumbers():
            yield
    finally:
        hook.remove()


def load_weights(model: Denoiser, name_or_path: str | Path) -> None:
    """Start ``model`` (a Denoiser) from another checkpoint's weights; raises CheckpointError when the networks differ."""
    source, meta = load(name_or_path)
    # Equal shapes are not enough: another time_scale or number of heads loads without a murmur and means something else.
    ours, theirs = ({**asdict(m.config), "dropout": 0} for m in (model, source))
    if ours != theirs or type(model.net) is not type(source.net) or (model.shape, model.classes) != (source.shape, source.classes):
        raise CheckpointError(
            f"{resolve(name_or_path)} has another network ({meta['network']} {meta['config']}, samples {source.shape}, "
            f"{source.classes} classes): give both the same --network options"
        )
    model.net.load_state_dict(source.net.state_dict())


def one_line(error: BaseException) -> str:
    """An error's text, or else its kind, as at most 250 printable characters without a last full stop."""
    return printable(" ".join(str(error)[:1000].split()).rstrip(".") or type(error).__name__, 250)
