"""What the commands of the command line do, once `cli` has read their options."""

import shutil
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch

from ..base.files import write_whole
from ..base.suggest import unknown
from ..formats import checkpoints
from ..training.presets import find
from ..training.session import Interrupted
from .app import app
from .common import checkpoint_of, choose_device, data_of, new_file, plan, write_png
from .lab import lab
from .options import (
    ConvertOptions,
    EditOptions,
    EvaluateOptions,
    InfoOptions,
    LikelihoodOptions,
    SampleOptions,
    SearchOptions,
    TheoryOptions,
    TrainCommand,
    TrainOptions,
    check_edit_options,
    parse,
)

BATCH = 256  # samples that are drawn at a time
SHOWN = 10_000  # samples that a .png shows at most, and ...
SHOWN_PIXELS = 2**26  # ... how many pixels


def execute(name: str, options: Any) -> int:
    """The command ``name`` with what its options say, or for "train" with its words; returns the exit status.

    Errors that a user can cause are raised: ValueError, FloatingPointError, OSError, ImportError.
    """
    commands = {
        "train": train,
        "sample": sample,
        "edit": edit,
        "search": search,
        "likelihood": likelihood,
        "evaluate": evaluate,
        "theory": theory,
        "convert": convert,
        "info": info,
        "app": app,
        "lab": lab,
    }
    try:
        commands[name](options)
    except torch.OutOfMemoryError as error:
        hint = "train with a larger --accumulate or a smaller --batch, sample with a smaller --n"
        raise ValueError(f"the memory of the device is full: {hint}") from error
    except Interrupted as stop:
        print(f"cmlab: {stop}", file=sys.stderr)
        return stop.code
    return 0


def _other_runs() -> tuple[list[str], list[str]]:
    """Names of the chains and of the classifiers that 'cmlab train' knows beside the presets."""
    from ..evaluation.classifier_training import CLASSIFIER_PRESETS
    from .chain import CHAINS

    return list(CHAINS), list(CLASSIFIER_PRESETS)


def train(args: list[str]) -> None:
    from ..training import presets, session

    prog = "cmlab train"
    if not args or args[0] in ("-h", "--help"):
        print("usage: cmlab train PRESET [--out DIR] [--overwrite] [--device D] [--threads N] [--FIELD VALUE ...]\n")
        print("PRESET, with what 'cmlab train PRESET --help' explains and lets you change, is one of:")
        _print_presets()
        chains, classifiers = _other_runs()
        print(f"\nor a chain, from the teacher to the cards of its students: {'  '.join(chains)}")
        print(f"or a classifier, for 'cmlab evaluate --features': {'  '.join(classifiers)}")
        if not args:
            raise ValueError("name a preset to train")
        return
    name, rest = args[0], args[1:]
    if name.startswith("-"):
        raise ValueError(f"the preset comes first: cmlab train PRESET {name} ...")
    if name.endswith("-chain"):
        from . import chain  # it draws, and so imports more than a training needs

        if name not in chain.CHAINS:
            raise ValueError(unknown("chain", name, chain.CHAINS))
        return chain.run(name, rest)
    if name.endswith("-classifier"):
        from ..evaluation import classifier_training

        both = TrainCommand(classifier_training.ClassifierOptions(), classifier_training.get_classifier_preset(name))
        command = parse(TrainCommand, rest, f"{prog} {name}", both)
        return classifier_training.run(name, command.preset, command.run, args, choose_device(command.run.device))
    if name not in presets.PRESETS:
        chains, classifiers = _other_runs()
        raise ValueError(unknown("preset", name, [*presets.PRESETS, *chains, *classifiers]))
    default = presets.get_preset(name)
    if any(word in ("-h", "--help") for word in rest):
        from ..training.cost import cost

        print(*([f"{name}: {presets.ABOUT[name]}"] if name in presets.ABOUT else []), cost(default), "", sep="\n")
    both = TrainCommand(TrainOptions(), default)
    command = parse(TrainCommand, rest, f"{prog} {name}", both)
    run_options, preset = command.run, command.preset
    session.train(name, preset, run_options, choose_device(run_options.device), args)


def _print_presets() -> None:
    """A line for each data set."""
    from ..training.presets import PRESETS

    for data in dict.fromkeys(p.data for p in PRESETS.values()):
        print("  " + "  ".join(name for name, p in PRESETS.items() if p.data == data))


def sample(o: SampleOptions) -> None:
    from tqdm import tqdm

    from ..samplers import sample as draw

    if o.out.suffix not in (".png", ".npz"):
        raise ValueError(f"--out must end in .png or .npz, got {o.out}")
    if o.n < 1:
        raise ValueError(f"--n must be at least 1, got {o.n}")
    if not -(2**63) <= o.seed <= 2**63 - o.n:
        raise ValueError(f"the seeds from --seed {o.seed} on do not fit into 64 bits: choose a smaller one")
    device = choose_device(o.device)
    model, meta = checkpoints.load(checkpoint_of(o.checkpoint), device)
    sampler, steps, levels = plan(model, o, meta.get("about") or {})
    _labels(model, o.label, 0, 1, device)  # refuses a class that is not there
    target = new_file(o.out, o.overwrite)
    _check_room(o, model.shape)
    started = time.perf_counter()

    def batches() -> Iterator[torch.Tensor]:
        with tqdm(total=o.n, unit=" samples", desc="sample", disable=None if o.n > BATCH else True) as bar:
            for start in range(0, o.n, BATCH):
                stop = min(start + BATCH, o.n)
                label, seeds = _labels(model, o.label, start, stop, device), range(o.seed + start, o.seed + stop)
                yield draw(model, model.shape, seeds, sampler, steps, label=label, sigmas=levels, device=device).cpu()
                bar.update(stop - start)

    if target.suffix == ".npz":
        write_whole(target, lambda file: _write_npz(file, o, model, batches()))
        seconds = time.perf_counter() - started
    else:
        from ..plots.figures import image_grid, plot_points

        x = torch.cat(list(batches()))
        seconds = time.perf_counter() - started
        if len(model.shape) == 1:
            write_whole(target, lambda file: plot_points({o.checkpoint: x}, size=4).savefig(file, format="png"))
        else:
            write_png(target, image_grid(x, scale=max(1, 64 // model.shape[-1])))
    at = "" if levels is None else f" at the levels {' '.join(f'{level:.5g}' for level in levels)}"
    print(f"{target}: {o.n} samples, {sampler} with {steps} step{'s' * (steps > 1)}{at}, {seconds:.2f} s")


def _check_room(o: SampleOptions, shape: tuple[int, ...]) -> None:
    """Refuse more samples than a picture shows, or than the disk has room for."""
    if o.out.suffix == ".png":
        pixels = max(64, *shape[1:]) ** 2 if len(shape) == 3 else 0
        most = min(SHOWN, max(1, SHOWN_PIXELS // pixels)) if pixels else SHOWN
        if o.n > most:
            raise ValueError(f"a .png shows at most {most:,} samples of this model, not --n {o.n}: write them to --out FILE.npz")
        return
    numbers = 1
    for side in shape:
        numbers *= side
    needed, free = o.n * (4 * numbers + 16), shutil.disk_usage(o.out.parent).free  # float32, and two int64
    if needed > free:
        raise ValueError(
            f"{o.n} samples take {needed / 2**30:.1f} GiB and {o.out.parent} has {free / 2**30:.1f} GiB free: choose a smaller --n"
        )


def _write_npz(file: IO[bytes], o: SampleOptions, model: Any, batches: Iterator[torch.Tensor]) -> None:
    """Arrays x, seeds and label as numpy.savez writes them, but batch by batch: the memory does not grow with their number."""
    import numpy as np

    def spans() -> Iterator[range]:
        return (range(o.n)[start : start + BATCH] for start in range(0, o.n, BATCH))

    cpu, labels = torch.device("cpu"), ((0,), np.float64, ())
    if model.classes:
        labels = ((o.n,), np.int64, (_labels(model, o.label, span.start, span.stop, cpu) for span in spans()))
    arrays = {
        "x": ((o.n, *model.shape), np.float32, (x.float() for x in batches)),
        "seeds": ((o.n,), np.int64, (np.arange(o.seed + span.start, o.seed + span.stop) for span in spans())),
        "label": labels,
    }
    with zipfile.ZipFile(file, "w") as archive:
        for name, (shape, kind, parts) in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                header = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(np.dtype(kind))}
                np.lib.format.write_array_header_1_0(entry, header)
                for part in parts:
                    entry.write(np.asarray(part, kind).tobytes())


def edit(o: EditOptions) -> None:
    from .. import editing
    from ..data import DATASETS, load_images
    from ..data.names import class_names_of
    from ..plots.figures import image_grid

    check_edit_options(o)
    model, meta = checkpoints.load(checkpoint_of(o.checkpoint))
    if len(model.shape) != 3:
        raise ValueError(f"{o.checkpoint} makes points, not pictures: choose an image model such as digits-color-cd")
    if not model.precond.consistency:
        raise ValueError(f"{o.checkpoint} is a diffusion model: edits need a consistency model such as digits-color-cd")
    channels, size = model.shape[0], model.shape[1:]
    own_label = None
    if o.image is not None:
        y = read_image(o.image, channels, size)
    else:
        bundled = (load_images(name) for name in DATASETS.of_kind("images"))
        data, index = next((data for data in bundled if tuple(data.shape) == model.shape), None), o.index or 0
        if data is None:
            raise ValueError(f"no bundled picture fits {model.shape}: pass --image FILE")
        if not 0 <= index < len(data):
            raise ValueError(f"--index must lie in 0..{len(data) - 1}, got {index}")
        y = data.take(torch.tensor([index]))
        if data.label is not None:
            about = meta.get("about") or {}
            names, own = class_names_of(about, model.classes, about.get("data", "")), data.class_names[int(data.label[index])]
            own_label = names.index(own) if own in names else None
    if own_label is None and model.classes:
        own_label = int(editing.likeliest_label(model, y, model.classes))
    extra = {} if o.steps is None else {"steps": o.steps}
    original = y
    if o.task == "inpaint":
        task = editing.inpaint(y, _mask("centre" if o.mask is None else o.mask, size, o.seed), **extra)
    elif o.task == "colorize":
        task = editing.colorize(y, **extra, **({} if o.draws is None else {"draws": o.draws}))
    elif o.task == "super_resolve":
        task = editing.super_resolve(y, 2 if o.patch is None else o.patch, **extra)
    elif o.task == "stroke":
        task = editing.stroke(y, o.sigma)
    else:
        sigma = 0.5 if o.sigma is None else o.sigma
        task = editing.denoise(y, sigma)  # checks sigma before the noise is made
        noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(o.seed))
        task = editing.denoise(y + sigma * noise, sigma)
    label = _labels(model, own_label if o.label is None else o.label, 0, 1, torch.device("cpu"))
    target = new_file(o.out, o.overwrite)
    result = editing.apply_edit(model, task, [o.seed], label=label)
    write_png(target, image_grid(torch.cat([original, task.degraded.to(original), result.to(original)]), 3, max(1, 160 // size[0])))
    difference = float((task.project(result) - result).abs().max())
    print(f"{target}: original, known, result. Largest change of what was kept: {difference:.1e}")


def search(o: SearchOptions) -> None:
    from tqdm import tqdm

    from ..methods.search import data_floor, greedy_search, search_grid, wasserstein_score

    if o.points < 1 or o.n < 1:
        raise ValueError(f"--points and --n must be at least 1, got {o.points} and {o.n}")
    if o.grid < o.points + 2:
        raise ValueError(f"--grid must be at least {o.points + 2} to have {o.points} between its ends, got {o.grid}")
    device = choose_device(o.device)
    model, meta = checkpoints.load(checkpoint_of(o.checkpoint), device)
    if not model.precond.consistency:
        raise ValueError(f"{o.checkpoint} is a diffusion model: time points are searched for a consistency model")
    data, name = data_of(meta, o.data)
    score = wasserstein_score(model, data, o.n, o.seed, device=device)
    fresh = wasserstein_score(model, data, o.n, o.seed + o.n, device=device)
    with tqdm(unit=" scores", desc="search", disable=None) as bar:

        def counted(sigmas: tuple[float, ...]) -> float:
            bar.update()
            return score(sigmas)

        found = greedy_search(counted, search_grid(model, o.grid), o.points, tolerance=o.tolerance)
    floor = data_floor(data, o.n, o.seed)
    print(f"{o.checkpoint}: sliced Wasserstein distance of {o.n} samples to {name}; data to data {floor:.4f}")
    print("steps  score   new seeds  sigmas")
    checked = [fresh(best.sigmas) for best in found.best]
    for best, check in zip(found.best, checked, strict=True):
        print(f"{len(best.sigmas):5}  {best.score:.4f}  {check:.4f}     {' '.join(f'{s:.5g}' for s in best.sigmas)}")
    helpful = min(range(len(checked)), key=checked.__getitem__)
    if helpful < o.points:
        print(
            f"On new seeds more than {helpful + 1} step{'s' * (helpful > 0)} did not help: the difference may be chance, see --n."
        )
    words = " ".join(f"{s:.5g}" for s in found.best[helpful].sigmas)
    print(f"{found.evaluations} lists of levels scored. Next: cmlab sample {o.checkpoint} --sigmas {words}")


def likelihood(o: LikelihoodOptions) -> None:
    from ..data import MixtureData
    from ..methods.likelihood import bits_per_dim, log_likelihood
    from ..steps import level_range

    if o.n < 2 or o.probes < 0:
        raise ValueError(f"--n must be at least 2 and --probes at least 0, got {o.n} and {o.probes}")
    device = choose_device(o.device)
    model, meta = checkpoints.load(checkpoint_of(o.checkpoint), device)
    data, name = data_of(meta, o.data)
    if tuple(data.shape) != model.shape:
        raise ValueError(f"{o.checkpoint} makes samples of shape {model.shape}, {name} has samples of shape {tuple(data.shape)}")
    source = torch.Generator().manual_seed(o.seed)
    x0, label = data.batch(o.n, source)
    result = log_likelihood(
        model,
        x0.to(device),
        label.to(device) if label is not None and model.classes else None,
        trace="hutchinson" if o.probes else "exact",
        probes=max(o.probes, 1),
        noise=source if o.probes or o.dequantize else None,
        bin_width=o.bin_width,
        dequantize=o.dequantize,
    )
    bits = result.bits_per_dim.cpu()
    error = float(bits.std()) / o.n**0.5
    print(
        f"{o.checkpoint} on {o.n} samples of {name}: {bits.mean():.4f} +- {error:.4f} bits per dimension, {result.nfe} evaluations"
    )
    if isinstance(data, MixtureData) and o.bin_width is None:
        exact = bits_per_dim(data.oracle.log_prob(x0.double(), level_range(model)[0]), x0[0].numel())
        above = bits - exact
        error = float(above.std()) / o.n**0.5
        print(f"the data's own density on them: {exact.mean():.4f}; the model needs {above.mean():.4f} +- {error:.4f} more")


def evaluate(o: EvaluateOptions) -> None:
    from .evaluate import evaluate

    evaluate(o)


def theory(o: TheoryOptions) -> None:
    from .theory import command

    command(o)


def convert(o: ConvertOptions) -> None:
    from ..formats import convert as formats

    facts = formats.Facts(o.kind, o.sigma_min, o.image_size, o.heads, o.head_channels, o.heads_up)
    source = o.source if Path(o.source).exists() else find(o.source)
    model = formats.convert(source, o.target, facts, o.dtype == "half", o.overwrite)
    kind = "consistency model" if model.precond.consistency else "diffusion model"
    shape = "x".join(str(n) for n in model.shape)
    count = sum(p.numel() for p in model.parameters())
    print(f"{o.target}: {kind}, samples of {shape}, {model.classes or 'no'} classes, {count:,} parameters")


def info(o: InfoOptions) -> None:
    from ..evaluation.card import card, classifier_card

    if not o.checkpoint:
        from ..data import DATASETS
        from ..evaluation.classifier import classifier_names

        print("bundled checkpoints:", ", ".join(checkpoints.pretrained_names()))
        if own := sorted(path.stem for path in Path("runs").glob(f"*{checkpoints.SUFFIX}")):
            print("your own, in runs/, which come before bundled ones of the same name:", ", ".join(own))
        print("data sets:", ", ".join(DATASETS.of_kind("toy", "images")))
        filed = ", ".join(DATASETS.of_kind("file", "folder"))
        print(f"data sets that need their files: {filed} (or --data with a folder of pictures)")
        print("presets, a line for each data set:")
        _print_presets()
        chains, trainable = _other_runs()
        print("chains of presets, by 'cmlab train':", ", ".join(chains))
        print("classifiers, for 'cmlab evaluate --features':", ", ".join(classifier_names()))
        print("and what trains such ones:", ", ".join(trainable))
        return
    try:
        print(card(find(o.checkpoint)))
    except checkpoints.CheckpointError as error:
        from ..evaluation.classifier import load_classifier, resolve_classifier

        if any(o.checkpoint in names for names in _other_runs()):
            told = f"see 'cmlab train {o.checkpoint} --help', and 'cmlab info' for the checkpoints and classifiers that are there"
            raise ValueError(f"{o.checkpoint} is no checkpoint but what 'cmlab train' makes some with: {told}") from error
        try:
            known = load_classifier(resolve_classifier(o.checkpoint))
        except ValueError:
            raise error from None
        print(classifier_card(o.checkpoint, known))


def read_image(path: Path, channels: int, size: tuple[int, ...], any_mode: bool = False) -> torch.Tensor:
    """A picture file as (1, channels, H, W) in [-1, 1]; raises ValueError unless it is a picture of this size and mode."""
    from ..plots.figures import read_picture

    if not path.is_file():
        raise ValueError(f"no picture at {path}: check the path")
    x, changes = read_picture(path, (channels, *size))
    refused = [c for c in changes if not (any_mode and c.startswith("converted"))]
    if refused:
        raise ValueError(f"{path} does not fit the model, it would have to be {' and '.join(refused)}: do that first")
    return x


def _mask(name: str, size: tuple[int, ...], seed: int) -> torch.Tensor:
    from .. import editing

    if name in editing.MASKS:
        return editing.preset_mask(name, size, seed)
    if not Path(name).is_file():
        raise ValueError(f"--mask {name!r} is neither a file nor one of {', '.join(editing.MASKS)}")
    return (read_image(Path(name), 1, size, any_mode=True) > 0).float()


def _labels(model: Any, label: int | None, start: int, stop: int, device: torch.device) -> torch.Tensor | None:
    """The classes of the samples start to stop: ``label``, or where it is None all in turn."""
    if label is not None and not 0 <= label < model.classes:
        known = f"0..{model.classes - 1}" if model.classes else "no classes"
        raise ValueError(f"--label {label}: this model has {known}")
    if not model.classes:
        return None
    if label is not None:
        return torch.full((stop - start,), label, device=device)
    return torch.arange(start, stop, device=device) % model.classes
