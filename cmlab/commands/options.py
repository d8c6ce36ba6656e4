"""The options of the command line, and how they are read: a wrong one is a line with the nearest right one."""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ..base.suggest import nearest

# The names of SAMPLERS, written out: tyro reads them from the type, and the help starts without torch.
Sampler = Literal[
    "euler",
    "heun",
    "dpm2",
    "dpm_solver3",
    "dpmpp_2s",
    "dpmpp_2m",
    "deis",
    "ddim",
    "progressive",
    "ancestral",
    "predictor_corrector",
    "onestep",
    "multistep",
]
Checkpoint = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
Source = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]


@dataclass(frozen=True)
class TrainOptions:
    """Train a preset and write runs/PRESET.safetensors.

    Args:
        out: folder for the checkpoint, and for a folder PRESET with the states of a run that is not finished.
        overwrite: replace a checkpoint of the same name, or the states of an unfinished run.
        resume: continue an unfinished run, to the same bits on a CPU with as many threads; where there is none, begin.
        save_every: save the state after every so many steps; 0 by time alone.
        save_minutes: save the state when so many minutes have passed; 0 by steps alone. SIGTERM and Ctrl-C always save it.
        keep: number of states that are kept.
        grid_every: draw samples from the same seeds after every so many steps, into PRESET/samples-STEP.png; 0 for none.
        fd_every: measure FD-cls of 1,000 samples after every so many steps (see 'cmlab evaluate'); 0 for never.
        tensorboard: log to TensorBoard, in the folder PRESET.
        device: "auto" takes a GPU where there is one.
        compile: let torch compile the networks: slow to start, then faster.
        shard: of several processes each holds a part of the weights, averages and optimizer (FSDP), for models that fill a GPU.
        max_skipped: give up after so many steps in a row whose loss or gradient is not finite.
        threads: CPU threads; 1 is the fastest for the small models.
    """

    out: Path = Path("runs")
    overwrite: bool = False
    resume: bool = False
    save_every: int = 0
    save_minutes: float = 10.0
    keep: int = 2
    grid_every: int = 0
    fd_every: int = 0
    tensorboard: bool = False
    device: str = "auto"
    compile: bool = False
    shard: bool = False
    max_skipped: int = 20
    threads: int = 1


@dataclass(frozen=True)
class SampleOptions:
    """Draw samples from a checkpoint.

    Args:
        checkpoint: a bundled name (see 'cmlab info') or a path.
        n: number of samples, drawn 256 at a time; a .png shows at most 10,000.
        seed: sample k has seed + k as its own seed, so it is the same picture in every batch.
        steps: solver steps; by default 18 for a diffusion model, 1 for a consistency model. Where the
            checkpoint keeps searched levels for two steps, two steps take those.
        sigmas: noise levels in place of steps, decreasing, such as 80 0.8 ('cmlab search' finds good ones).
        sampler: onestep or multistep for consistency models, any other for diffusion models; by default multistep and heun.
        label: class of all samples; by default the classes in turn.
        out: file to write: .png (a grid, or a scatter plot for points) or .npz (arrays x, seeds, label).
        overwrite: replace that file.
        device: "auto" takes a GPU where there is one.
    """

    checkpoint: Checkpoint
    n: int = 16
    seed: int = 0
    steps: int | None = None
    sigmas: tuple[float, ...] | None = None
    sampler: Sampler | None = None
    label: int | None = None
    out: Path = Path("samples.png")
    overwrite: bool = False
    device: str = "auto"


@dataclass(frozen=True)
class EditOptions:
    """Edit a picture with a consistency model; the result is original, what is known, and result side by side.

    Args:
        checkpoint: a bundled name (see 'cmlab info') or a path.
        task: what to do.
        image: file of your own picture, a PNG or JPEG of exactly the size and colours that the model makes (8 x 8 pixels for the
            digits, 32 x 32 for CIFAR-10), cut and resized before; by default number 'index' of the bundled ones: digits, or
            examples of CIFAR-10.
        index: which of the bundled pictures to edit when no image is given.
        mask: for inpaint: centre, left, right, top, bottom, random, or a picture whose bright pixels are to be generated.
        patch: for super_resolve: side of the blocks whose mean is kept.
        sigma: for denoise and stroke: standard deviation of the noise that is added to the picture, in units of [-1, 1].
        steps: for inpaint, colorize, super_resolve: number of noise levels.
        draws: for colorize: colourings of which the result is the mean; by default 4, nearer to the truth than 1, less varied.
        label: class of the picture; by default a bundled one's own, or the likeliest for a given picture.
        seed: seed of the noise.
        out: picture to write.
        overwrite: replace that file.
    """

    checkpoint: Checkpoint
    task: Annotated[Literal["inpaint", "colorize", "super_resolve", "stroke", "denoise"], tyro.conf.Positional]
    image: Path | None = None
    index: int | None = None
    mask: str | None = None
    patch: int | None = None
    sigma: float | None = None
    steps: int | None = None
    draws: int | None = None
    label: int | None = None
    seed: int = 0
    out: Path = Path("edit.png")
    overwrite: bool = False


@dataclass(frozen=True)
class SearchOptions:
    """Search the noise levels of multistep sampling, one after the other, by the sliced Wasserstein distance to the data.

    Args:
        checkpoint: a consistency model: a bundled name (see 'cmlab info') or a path.
        points: how many levels to find, besides the first at 80.
        n: number of samples that a score takes; more make it less noisy.
        seed: all candidates get the same samples' seeds, from here on.
        grid: number of levels of the Karras grid to search on; N of the model's training fits.
        data: data set to compare with; by default the one that the model was trained on.
        tolerance: difference of two scores that may be chance; above 0 the search scores more candidates.
        device: "auto" takes a GPU where there is one.
    """

    checkpoint: Checkpoint
    points: int = 1
    n: int = 10_000
    seed: int = 0
    grid: int = 40
    data: str | None = None
    tolerance: float = 0.0
    device: str = "auto"


@dataclass(frozen=True)
class LikelihoodOptions:
    """Measure how many bits per dimension a diffusion model needs for its data.

    Args:
        checkpoint: a diffusion model: a bundled name (see 'cmlab info') or a path.
        n: number of samples of the data.
        seed: seed of the data and of all noise.
        data: data set to measure on; by default the one that the model was trained on.
        probes: random probes for Hutchinson's estimate of the trace; 0 takes the exact trace, slow for pictures.
        bin_width: distance of two grey levels of pictures in [-1, 1]; by default 2/255. 'digits' has 1/8.
        dequantize: add uniform noise of one bin width to the pictures first.
        device: "auto" takes a GPU where there is one.
    """

    checkpoint: Checkpoint
    n: int = 256
    seed: int = 0
    data: str | None = None
    probes: int = 0
    bin_width: float | None = None
    dequantize: bool = False
    device: str = "auto"


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure how good samples are: of a checkpoint, or pictures in a folder, archive or .npz.

    Pictures get FID, KID, IS, precision and recall from torch-fidelity's Inception, or, offline, the same distances on the features
    of a small classifier that ships, called FD-cls and KD-cls (never FID), and its class accuracy. Points get sliced Wasserstein
    distances. Beside each figure stands that of real held-out images; +- is one bootstrap standard deviation over the samples.

    Several processes give the same figures: torchrun --nproc-per-node 2 -m -- cmlab evaluate ...

    Args:
        source: a bundled name (see 'cmlab info'), a checkpoint, or a folder, archive or .npz of pictures.
        data: data set to compare with, a name or a path; by default the one that the checkpoint was trained on.
        n: number of samples; by default 10,000 of a checkpoint, all pictures of a folder.
        seed: sample k has seed + k as its own seed.
        steps: solver steps; by default 18 for a diffusion model, 1 for a consistency model. Where the
            checkpoint keeps searched levels for two steps, two steps take those.
        sigmas: noise levels in place of steps, decreasing.
        sampler: by default multistep for a consistency model, heun for a diffusion model.
        batch: samples at a time; figures may differ in the last digits between batch sizes.
        metrics: some of fid,kid,is,pr (Inception) or fd,kd,is,pr,accuracy (classifier), with commas; by default all.
        features: auto, inception, classifier, a classifier's name, or its file; auto takes the classifier that knows the data
            unless fid or kid is asked for.
        weights: file of Inception's weights, for machines without a network.
        rounding: how samples become 8-bit: round as in EDM, or trunc as in OpenAI's scripts, half a level darker.
        reference: how many real images to compare with; by default all, up to 50,000.
        replicates: resampled sets that an error bar is taken from.
        teacher: a diffusion model, measured in the same way beside it.
        cache: folder for features of real images; by default $CMLAB_CACHE, else ~/.cache/cmlab.
        json: file to write the figures to.
        card: file to write a model card with the figures to (Markdown); its pictures are written beside it.
        keep: put the figures into the checkpoint's own header, which 'cmlab info' prints.
        overwrite: replace those files.
        device: "auto" takes a GPU where there is one.
    """

    source: Source
    data: str | None = None
    n: int | None = None
    seed: int = 0
    steps: int | None = None
    sigmas: tuple[float, ...] | None = None
    sampler: Sampler | None = None
    batch: int = 256
    metrics: str = ""
    features: str = "auto"
    weights: Path | None = None
    rounding: Literal["round", "trunc"] = "round"
    reference: int | None = None
    replicates: int = 20
    teacher: str | None = None
    cache: Path | None = None
    json: Path | None = None
    card: Path | None = None
    keep: bool = False
    overwrite: bool = False
    device: str = "auto"


@dataclass(frozen=True)
class TheoryOptions:
    """Measure a theorem of the paper against exact scores, in float64.

    Experiments:
      thm1: the error of models of zero CD loss against the step size; its slope is the solver's order.
      thm2: CD loss against CT loss as the steps shrink; the slope of their difference is 2.
      variance: bias and spread of the CT gradient against N.

    Args:
        experiment: what to measure.
        data: for thm1 and thm2: soft3 (three broad Gaussians, the default), gaussian, or a 2D data set such as 8gaussians.
        checkpoint: for thm1: a consistency model of points, whose error is drawn beside the curve, on its own data. For variance:
            the model whose gradient is measured, by default 8gaussians-edm, where consistency training starts.
        solver: for thm1: by default heun.
        distance: for thm2: by default l2.
        target: for thm2: another network (the default), or the online network itself.
        weight: for variance: weight of the loss, by default 1.
        sizes: numbers N of grid levels, growing.
        points: draws of data and noise; fewer are faster and rougher.
        seed: seed of the draws, and of thm2's random networks.
        json: file to write the figures to.
        figure: picture to write, .png.
        overwrite: replace those files.
    """

    experiment: Annotated[Literal["thm1", "thm2", "variance"], tyro.conf.Positional]
    data: str | None = None
    checkpoint: str | None = None
    solver: Literal["euler", "heun", "midpoint", "midpoint-sigma"] | None = None
    distance: Literal["l1", "l2", "huber"] | None = None
    target: Literal["other", "online"] | None = None
    weight: Literal["1", "1/dt"] | None = None
    sizes: tuple[int, ...] | None = None
    points: int | None = None
    seed: int = 0
    json: Path | None = None
    figure: Path | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class ConvertOptions:
    """Convert a checkpoint of another program, or write one for it. Nothing in a source is ever executed.

    Sources:
      NAME.pt: OpenAI's consistency_models (EDM, CD and CT on ImageNet-64 and LSUN-256), from its repository's README. Such
        files hold weights alone: say --kind, and for other networks than the published ones --image-size and the heads.
      NAME.pkl: NVlabs' EDM (CIFAR-10, FFHQ, AFHQv2, ImageNet-64) and ECT snapshots, from their repositories' README.
      a folder: a consistency pipeline of the diffusers library, as save_pretrained writes it and the Hugging Face hub has it
        (diffusers-cd_imagenet64_l2 and its like): the folder that holds model_index.json.
      NAME.safetensors or a bundled name: cmlab's own.

    Args:
        source: file or folder to read.
        target: NAME.safetensors (cmlab), NAME.pt (OpenAI) or a folder (diffusers; consistency models).
        kind: for OpenAI's .pt: edm (a diffusion model; the edm_*.pt files) or consistency (cd_*.pt and ct_*.pt).
        sigma_min: for OpenAI's .pt of a consistency model: the level at which it is the identity, by default 0.002.
        image_size: for other networks than OpenAI's published: side of the images.
        heads: for other networks than OpenAI's published: attention heads in each block.
        head_channels: for other networks than OpenAI's published: channels of each attention head; instead of heads.
        heads_up: for other networks than OpenAI's published: heads on the way up, where they differ from heads.
        dtype: half stores weights in 16 bits, which rounds them.
        overwrite: replace the target.
    """

    source: Source
    target: Annotated[Path, tyro.conf.Positional]
    kind: Literal["edm", "consistency"] | None = None
    sigma_min: float | None = None
    image_size: int | None = None
    heads: int | None = None
    head_channels: int | None = None
    heads_up: int | None = None
    dtype: Literal["float", "half"] = "float"
    overwrite: bool = False


@dataclass(frozen=True)
class InfoOptions:
    """Describe a checkpoint, or list presets, data sets and bundled checkpoints.

    Args:
        checkpoint: a bundled name or a path; without it, the list.
    """

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[CHECKPOINT]")] = ""


@dataclass(frozen=True)
class TrainCommand:
    """What 'cmlab train PRESET' takes: where to write, and the preset's fields."""

    run: Annotated[Any, tyro.conf.arg(name="")]
    preset: Annotated[Any, tyro.conf.arg(name="")]


def parse(kind: Any, args: list[str], prog: str, default: Any = None) -> Any:
    """tyro.cli, but an unknown option or value is one line with a suggestion."""
    import contextlib
    import io

    config = (tyro.conf.AvoidSubcommands,) if default is not None else ()
    held = io.StringIO()
    wants_help = any(a in ("-h", "--help") for a in args)
    try:
        with contextlib.nullcontext() if wants_help else contextlib.redirect_stderr(held):
            if default is None:
                parsed, rest = tyro.cli(kind, args=args, prog=prog, return_unknown_args=True)
            else:
                parsed, rest = tyro.cli(kind, args=args, prog=prog, default=default, config=config, return_unknown_args=True)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        lines = [line.strip("│╭╮╰╯─|+ \n") for line in held.getvalue().splitlines()]
        text = " ".join(line for line in lines if line.strip("-") and line != "Parsing error")
        for tail in (" Argument helptext", " For full helptext"):
            text = text.split(tail)[0]
        if text.startswith("Required options") and default is None:
            names = [field.name.upper() for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING]
            text = f"{prog} needs {' '.join(names)}"
        raise ValueError(f"{_plain(text).rstrip('.')}. See '{prog} --help'") from stop
    if rest:
        raise ValueError(unknown_option(rest[0], kind, prog, default))
    return parsed


_NO_NUMBER = (
    # What tyro says for one type, and for that type or None.
    (r"invalid literal for int\(\) with base 10: ('.*?')", r"could not convert string to float: ('.*?')"),
    (r"no type matching .*\bINT\b.* instantiated from \[(.+?)\]", r"no type matching .*\bFLOAT\b.* instantiated from \[(.+?)\]"),
)


def _plain(text: str) -> str:
    """tyro's message about a word that is no number, in plain words; any other message as it is."""
    found = re.search(r"Error parsing (\S+): (.*)", text)
    option, reason = found.groups() if found else ("", "")
    for whole, real in _NO_NUMBER:
        for pattern, kind in ((whole, "a whole number"), (real, "a number")):
            if match := re.match(pattern, reason):
                return f"{option} takes {kind}, got {match[1]}"
    return text.removeprefix("Value error ").removeprefix("Invalid choice ")


def unknown_option(word: str, kind: Any, prog: str, default: Any = None) -> str:
    """The message for an argument that no option takes, with the nearest option."""
    if not word.startswith("-"):
        return f"unexpected argument {word!r}. See '{prog} --help'"
    near = nearest(word.split("=")[0].replace("_", "-"), option_names(default if default is not None else kind))
    return f"unknown option {word}: " + (f"did you mean {near}? " if near else "") + f"See '{prog} --help'"


def option_names(node: Any, prefix: str = "--") -> list[str]:
    from dataclasses import fields, is_dataclass

    names = []
    for field in fields(node):
        value = getattr(node, field.name, None)
        # TrainCommand's own two fields do not show in the names of the options.
        name = prefix + ("" if isinstance(node, TrainCommand) else field.name.replace("_", "-"))
        names += option_names(value, name if isinstance(node, TrainCommand) else name + ".") if is_dataclass(value) else [name]
    return names


def check_edit_options(o: EditOptions) -> None:
    """An option that the task does not read is an error, not a silence."""
    uses = {
        "mask": ("inpaint",),
        "patch": ("super_resolve",),
        "sigma": ("denoise", "stroke"),
        "steps": ("inpaint", "colorize", "super_resolve"),
        "draws": ("colorize",),
    }
    for name, tasks in uses.items():
        if getattr(o, name) is not None and o.task not in tasks:
            raise ValueError(f"--{name} belongs to {', '.join(tasks)}; {o.task} does not use it")
    if o.image is not None and o.index is not None:
        raise ValueError("--index chooses a bundled picture: leave it out when --image is given")
