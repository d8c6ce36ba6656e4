"""What several commands of the command line share: devices, output files, and which sampler a model takes."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from ..base.files import write_whole
from ..data import Data, load_data
from ..data.names import title_of
from ..denoiser import Denoiser
from ..formats.checkpoints import PRETRAINED, SUFFIX, pretrained_names, searched_sigmas
from ..training.presets import PRESETS, Preset, find
from .options import EvaluateOptions, SampleOptions

MOST_STEPS = 10_000


def choose_device(name: str) -> torch.device:
    """The device of that name, "auto" for a GPU where there is one; one of several processes gets the GPU of its own rank."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if name != "cuda":
            raise ValueError(
                f"several processes take a GPU each: say --device cuda, not {name}, and choose with CUDA_VISIBLE_DEVICES"
            )
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {name!r} cannot be used here ({str(error).splitlines()[0]}): try --device cpu") from error
    return device


def checkpoint_of(name: str) -> Path:
    """`find`, and a line on stderr where a run of the user's own stands before the bundled checkpoint of that name."""
    path, bare = find(name), name.removesuffix(SUFFIX)
    if path != Path(name) and path.parent != PRETRAINED and bare in pretrained_names():
        print(f"cmlab: {bare} is {path}, your own; the bundled one is {PRETRAINED / path.name}", file=sys.stderr)
    return path


def new_file(path: Path, overwrite: bool, option: str = "--out") -> Path:
    """Refuse, before any work is done, to write over a file or where nothing can be written; ``option`` is what names it."""
    if path.exists() and (path.is_dir() or not overwrite):
        raise ValueError(
            f"{path} exists: choose another {option}, or pass --overwrite" if path.is_file() else f"{path} is a folder"
        )
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {folder} ({error.strerror}): choose another {option}") from error
    try:
        with tempfile.TemporaryFile(dir=folder):  # os.access says yes to root everywhere
            pass
    except OSError as error:
        raise ValueError(f"cannot write in the folder {folder} ({error.strerror}): choose another {option}") from error
    return path


def plan(model: Denoiser, o: SampleOptions | EvaluateOptions, about: dict[str, Any]) -> tuple[str, int, torch.Tensor | None]:
    """Sampler, steps and levels (None for the default) that the options choose for this model.

    ``about`` is the checkpoint's: a model that is made for one sampler and number of steps (progressive distillation) says so,
    and one whose levels were searched keeps them there.
    """
    from ..samplers import CONSISTENCY_SAMPLERS, SAMPLERS

    consistency = model.precond.consistency
    sampler = o.sampler or about.get("sampler") or ("multistep" if consistency else "heun")
    usual = about["steps"] if sampler == about.get("sampler") else 1 if consistency else 18
    name = o.checkpoint if isinstance(o, SampleOptions) else o.source
    if consistency != (sampler in CONSISTENCY_SAMPLERS):
        others = ", ".join(name for name in SAMPLERS if name not in ("euler", "heun", *CONSISTENCY_SAMPLERS))
        fitting = "onestep or multistep" if consistency else f"euler or heun (or {others})"
        kind = "consistency" if consistency else "diffusion"
        raise ValueError(f"{name} is a {kind} model: choose --sampler {fitting}, not {sampler}")
    if o.sigmas is None:
        steps = usual if o.steps is None else o.steps
        if steps > MOST_STEPS:
            raise ValueError(f"--steps {steps}: {MOST_STEPS:,} is the most")
        return sampler, steps, searched_sigmas(about, sampler, steps)
    levels = _levels(model, o.sigmas, o.steps)
    return sampler, len(levels) - (not consistency), levels


def machine(device: torch.device) -> str:
    """The model of a GPU, or of this machine's processor."""
    import platform

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def run_facts(preset: Preset, device: torch.device) -> dict[str, Any]:
    """What a model card tells of a run of ``preset`` on ``device``: the data in words, the machine, the images that were seen."""
    facts = {"data_title": title_of(preset.data_name), "machine": machine(device), "images": preset.steps * preset.batch}
    if preset.precision not in ("float32", "auto"):
        facts["precision"] = preset.precision
    return facts | {role: getattr(preset, role) for role in ("init", "teacher") if getattr(preset, role)}


def data_of(meta: dict[str, Any], name: str | None) -> tuple[Data, str]:
    """The data set ``name``, or the one that the checkpoint says it was trained on."""
    about = meta.get("about") or {}
    preset = PRESETS.get(about.get("preset", ""))
    name = name or about.get("data") or (preset.data_name if preset else None)
    if name is None:
        raise ValueError("the checkpoint does not say what it was trained on: pass --data NAME")
    return load_data(name), name


def _levels(model: Denoiser, sigmas: tuple[float, ...], steps: int | None) -> torch.Tensor:
    from ..steps import level_range

    if steps is not None:
        raise ValueError("--sigmas are the levels themselves: leave --steps out")
    if not sigmas:
        raise ValueError("--sigmas needs at least one noise level, such as 80")
    lowest = level_range(model)[0]
    if model.precond.consistency and not min(sigmas) > lowest:
        raise ValueError(f"--sigmas of a consistency model lie above {lowest:g}, where it returns its input")
    if not model.precond.consistency and sigmas[-1] > lowest:
        raise ValueError(f"--sigmas of a diffusion model end in 0: {sigmas[-1]:g} would leave noise of that level in the samples")
    return torch.tensor(sigmas, dtype=torch.float64)


def write_png(path: Path, image) -> None:
    from PIL import Image

    write_whole(path, lambda file: Image.fromarray(image).save(file, format="PNG"))
