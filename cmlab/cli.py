"""The command line: ``cmlab train | sample | edit | info``. Every error is one line on stderr and a non-zero exit."""

import sys
import time
from pathlib import Path
from typing import Any

import torch

from . import checkpoints
from .data import unknown
from .denoiser import Denoiser
from .options import EditOptions, InfoOptions, SampleOptions, TrainCommand, TrainOptions, check_edit_options, parse
from .presets import find

_KNOWN_ERRORS = (ValueError, FloatingPointError, OSError)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {name!r} cannot be used here ({str(error).splitlines()[0]}): try --device cpu") from error
    return device


def _new_file(path: Path, overwrite: bool) -> Path:
    """Refuse, before any work is done, to write over a file or where nothing can be written."""
    import os

    if path.exists() and (path.is_dir() or not overwrite):
        raise ValueError(f"{path} exists: choose another --out, or pass --overwrite" if path.is_file() else f"{path} is a folder")
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cannot make the folder {folder} ({error.strerror}): choose another --out") from error
    if not os.access(folder, os.W_OK):
        raise ValueError(f"cannot write in {folder}: choose another --out")
    return path


def train(args: list[str]) -> None:
    from . import presets

    prog = "cmlab train"
    if not args or args[0] in ("-h", "--help"):
        print("usage: cmlab train PRESET [--out DIR] [--overwrite] [--device D] [--threads N] [--FIELD VALUE ...]\n")
        print("PRESET, with what 'cmlab train PRESET --help' explains and lets you change, is one of:")
        for data in dict.fromkeys(p.data for p in presets.PRESETS.values()):
            print("  " + "  ".join(name for name, p in presets.PRESETS.items() if p.data == data))
        if not args:
            raise ValueError("name a preset to train")
        return
    name, rest = args[0], args[1:]
    if name.startswith("-"):
        raise ValueError(f"the preset comes first: cmlab train PRESET {name} ...")
    default = presets.get_preset(name)
    both = TrainCommand(TrainOptions(), default)
    command = parse(TrainCommand, rest, f"{prog} {name}", both)
    run_options, preset = command.run, command.preset
    target = _new_file(run_options.out / f"{name}{checkpoints.SUFFIX}", run_options.overwrite)
    if run_options.threads < 1:
        raise ValueError(f"--threads must be at least 1, got {run_options.threads}")
    torch.set_num_threads(run_options.threads)
    device = _device(run_options.device)
    started = time.perf_counter()
    from tqdm import tqdm

    state = None
    with tqdm(total=preset.steps, unit="step", desc=name, disable=None) as bar:
        for state in presets.run(preset, every=max(1, min(50, preset.steps // 20)), device=device):
            bar.update(state.step - bar.n)
            bar.set_postfix(loss=f"{state.loss:.4g}", per_s=f"{state.images_per_s:.0f}")
    assert state is not None
    seconds = time.perf_counter() - started
    about = {
        "preset": name,
        "data": preset.data,
        "seconds": round(seconds, 2),
        "command": " ".join(["cmlab train", *args]),
        "device": str(device),
    }
    if device.type == "cpu":
        about["threads"] = run_options.threads
    assert isinstance(state.ema, Denoiser)
    checkpoints.save(target, state.ema, about, torch.float16 if preset.half else None)
    print(f"{target}: {preset.steps} steps in {seconds:.0f} s, last loss {state.loss:.4g}. Next: cmlab sample {target}")


def sample(args: list[str]) -> None:
    from .samplers import ODE_SAMPLERS
    from .samplers import sample as draw

    o: SampleOptions = parse(SampleOptions, args, "cmlab sample")
    if o.out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out must end in .png or .npz, got {o.out}")
    if o.n < 1:
        raise ValueError(f"--n must be at least 1, got {o.n}")
    device = _device(o.device)
    model, _ = checkpoints.load(find(o.checkpoint), device)
    consistency = model.precond.sigma_min > 0
    sampler = o.sampler or ("multistep" if consistency else "heun")
    if consistency == (sampler in ODE_SAMPLERS):
        fitting = "onestep or multistep" if consistency else "euler or heun"
        kind = "consistency" if consistency else "diffusion"
        raise ValueError(f"{o.checkpoint} is a {kind} model: choose --sampler {fitting}, not {sampler}")
    label = _labels(model, o.label, o.n, device)
    steps = o.steps if o.steps is not None else (1 if consistency else 18)
    target = _new_file(o.out, o.overwrite)
    started = time.perf_counter()
    seeds = [o.seed + k for k in range(o.n)]
    x = draw(model, model.shape, seeds, sampler, steps, label=label, device=device).cpu()
    seconds = time.perf_counter() - started
    if target.suffix == ".npz":
        import numpy as np

        classes = np.array([]) if label is None else label.cpu().numpy()
        _write(target, lambda file: np.savez(file, x=x.float().numpy(), seeds=np.array(seeds), label=classes))
    elif len(model.shape) == 1:
        from .plots import plot_points

        _write(target, lambda file: plot_points({o.checkpoint: x}, size=4).savefig(file, format="png"))
    else:
        from .plots import image_grid

        _write_png(target, image_grid(x, scale=max(1, 64 // model.shape[-1])))
    print(f"{target}: {o.n} samples, {sampler} with {steps} step{'s' * (steps > 1)}, {seconds:.2f} s")


def edit(args: list[str]) -> None:
    from . import editing
    from .data import digits, digits_color
    from .plots import image_grid

    o: EditOptions = parse(EditOptions, args, "cmlab edit")
    check_edit_options(o)
    model, _ = checkpoints.load(find(o.checkpoint))
    if len(model.shape) != 3:
        raise ValueError(f"{o.checkpoint} makes points, not pictures: choose an image model such as digits-color-cd")
    if model.precond.sigma_min == 0:
        raise ValueError(f"{o.checkpoint} is a diffusion model: edits need a consistency model such as digits-color-cd")
    channels, size = model.shape[0], model.shape[1:]
    if o.image is not None:
        y = read_image(o.image, channels, size)
        own_label = int(editing.likeliest_label(model, y, model.classes)) if model.classes else None
    else:
        data, index = digits_color() if channels == 3 else digits(), o.index or 0
        pictures, labels = data.x0, data.label
        assert labels is not None
        if not 0 <= index < len(pictures):
            raise ValueError(f"--index must lie in 0..{len(pictures) - 1}, got {index}")
        y, own_label = pictures[index : index + 1], int(labels[index]) if model.classes else None
        if tuple(y.shape[1:]) != model.shape:
            raise ValueError(f"no bundled picture fits {model.shape}: pass --image FILE")
    extra = {} if o.steps is None else {"steps": o.steps}
    original = y
    if o.task == "inpaint":
        task = editing.inpaint(y, _mask("centre" if o.mask is None else o.mask, size, o.seed), **extra)
    elif o.task == "colorize":
        task = editing.colorize(y, **extra)
    elif o.task == "super_resolve":
        task = editing.super_resolve(y, 2 if o.patch is None else o.patch, **extra)
    elif o.task == "stroke":
        task = editing.stroke(y, o.sigma)
    else:
        sigma = 0.5 if o.sigma is None else o.sigma
        task = editing.denoise(y, sigma)  # checks sigma before the noise is made
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(o.seed))
        task = editing.denoise(y + sigma * noise, sigma)
    label = _labels(model, own_label if o.label is None else o.label, 1, torch.device("cpu"))
    target = _new_file(o.out, o.overwrite)
    result = editing.apply_edit(model, task, [o.seed], label=label)
    _write_png(
        target, image_grid(torch.cat([original, task.degraded.to(original), result.to(original)]), 3, max(1, 160 // size[0]))
    )
    difference = float((task.project(result) - result).abs().max())
    print(f"{target}: original, known, result. Largest change of what was kept: {difference:.1e}")


def info(args: list[str]) -> None:
    o: InfoOptions = parse(InfoOptions, args, "cmlab info")
    if not o.checkpoint:
        from .data import DATASETS
        from .presets import PRESETS

        print("bundled checkpoints:", ", ".join(checkpoints.pretrained_names()))
        print("data sets:", ", ".join(DATASETS))
        print("presets:", ", ".join(PRESETS))
        return
    path = find(o.checkpoint)
    model, meta = checkpoints.load(path)
    count = sum(p.numel() for p in model.parameters())
    kind = f"consistency model, f(x, {model.precond.sigma_min}) = x" if model.precond.sigma_min else "diffusion model (EDM)"
    print(f"{path}\n  {kind}; samples of shape {model.shape}; {model.classes or 'no'} classes")
    print(f"  network {meta['network']}, {count:,} parameters, {path.stat().st_size / 1e3:.0f} kB: {meta['config']}")
    for key, value in meta.get("about", {}).items():
        print(f"  {key}: {value}")


def read_image(path: Path, channels: int, size: tuple[int, ...], any_mode: bool = False) -> torch.Tensor:
    """A picture file as (1, channels, H, W) in [-1, 1]; raises ValueError unless it is a picture of this size and mode."""
    from .plots import read_picture

    if not path.is_file():
        raise ValueError(f"no picture at {path}: check the path")
    x, changes = read_picture(path, (channels, *size))
    refused = [c for c in changes if not (any_mode and c.startswith("converted"))]
    if refused:
        raise ValueError(f"{path} does not fit the model, it would have to be {' and '.join(refused)}: do that first")
    return x


def _mask(name: str, size: tuple[int, ...], seed: int) -> torch.Tensor:
    from . import editing

    if name in editing.MASKS:
        return editing.preset_mask(name, size, seed)
    if not Path(name).is_file():
        raise ValueError(f"--mask {name!r} is neither a file nor one of {', '.join(editing.MASKS)}")
    return (read_image(Path(name), 1, size, any_mode=True) > 0).float()


def _labels(model: Any, label: int | None, n: int, device: torch.device) -> torch.Tensor | None:
    if label is not None and not 0 <= label < model.classes:
        known = f"0..{model.classes - 1}" if model.classes else "no classes"
        raise ValueError(f"--label {label}: this model has {known}")
    if not model.classes:
        return None
    return torch.arange(n, device=device) % model.classes if label is None else torch.full((n,), label, device=device)


def _write(path: Path, writer) -> None:
    """Write beside the file, then rename: a failure leaves what was there."""
    part = path.with_name(path.name + ".part")
    try:
        with open(part, "wb") as file:
            writer(file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_png(path: Path, image) -> None:
    from PIL import Image

    _write(path, lambda file: Image.fromarray(image).save(file, format="PNG"))


COMMANDS = {"train": train, "sample": sample, "edit": edit, "info": info}
_USAGE = """usage: cmlab COMMAND ...

  train PRESET      train a preset and write a checkpoint
  sample CHECKPOINT draw samples into a picture or an .npz file
  edit CHECKPOINT TASK   inpaint, colorize, super_resolve, stroke or denoise a picture
  info [CHECKPOINT] describe a checkpoint; without one, list presets, data sets and bundled checkpoints

'cmlab COMMAND --help' explains the options."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error that a message explains, 130 when interrupted."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(_USAGE)
        return 0 if args else 2
    try:
        if args[0] not in COMMANDS:
            raise ValueError(unknown("command", args[0], COMMANDS))
        COMMANDS[args[0]](args[1:])
    except BrokenPipeError:  # the reader of our output has gone: nothing is wrong
        sys.stderr.close()
        return 0
    except _KNOWN_ERRORS as error:
        print(f"cmlab: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cmlab: interrupted, nothing was written", file=sys.stderr)
        return 130
    except SystemExit as stop:  # tyro prints its help and exits
        return int(stop.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
