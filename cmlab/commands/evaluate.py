"""'cmlab evaluate': how good samples are."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from ..base.files import new_file, user_path, write_whole
from ..base.registry import DATASETS
from .options import Compiled, Device, Guidance, InPrecision, Sampler, Sigmas, Source, Steps

if TYPE_CHECKING:
    import torch

    from ..evaluation.report import Report
    from ..evaluation.report import Source as Samples


@dataclass(frozen=True)
class EvaluateOptions:
    """Measure how good samples are: of a checkpoint, or pictures in a folder, archive or .npz.

    Pictures get FID, KID, IS, precision and recall from torch-fidelity's Inception, or, offline, the same distances on the features
    of a small classifier that ships, called FD-cls and KD-cls (never FID), and its class accuracy. Points get sliced Wasserstein
    distances. Beside each figure stands that of real held-out images; +- is one bootstrap standard deviation over the samples.

    Several processes give the same figures: torchrun --nproc-per-node 2 -m -- cmlab evaluate ...

    Args:
        source: a bundled name (see 'cmlab info'), a checkpoint, or a folder, archive or .npz of pictures;
            FOLDER@32 resizes them to 32 x 32.
        data: data set to compare with, a name or a path; by default the one that the checkpoint was trained on.
        n: number of samples; by default 10,000 of a checkpoint, all pictures of a folder.
        seed: sample k has seed + k as its own seed.
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
    """

    lists: ClassVar = ((DATASETS,),)
    source: Source
    data: str | None = None
    n: int | None = None
    seed: int = 0
    steps: Steps = None
    sigmas: Sigmas = None
    sampler: Sampler = None
    guidance: Guidance = None
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
    device: Device = "auto"
    precision: InPrecision = "float32"
    compile: Compiled = False


def evaluate(o: EvaluateOptions) -> None:
    """Run 'cmlab evaluate': print the report and write the files that were asked for."""
    from ..base.device import choose_device
    from ..data.names import split_format
    from ..data.pictures import SUFFIXES
    from ..evaluation.card import keep_figures
    from ..formats.checkpoints import SUFFIX
    from ..training.presets import find

    device = choose_device(o.device)
    for option, path in (("--json", o.json), ("--card", o.card)):
        if path is not None:
            new_file(path, o.overwrite, option)
    if o.card is not None:
        from ..evaluation.cardpictures import PICTURES  # imports matplotlib

        for name in PICTURES:
            new_file(o.card.with_name(f"{o.card.stem}-{name}.png"), o.overwrite, "--card")
    own = user_path(f"{o.source}{SUFFIX}").is_file()  # beside it a folder of its name: the run's states and grids
    files = split_format(o.source)[0]  # PATH@32 are pictures that are resized
    pictures = not own and (user_path(files).is_dir() or files.endswith(SUFFIXES))
    found = _of_pictures(o, device) if pictures else _of_model(o, device)
    if found is None:  # another process of torchrun has the report
        return
    print(found.text())
    if o.json is not None:
        write_whole(o.json, json.dumps(found.as_dict(), indent=1).encode())
    if o.keep:
        keep_figures(find(o.source), found)
    if o.card is not None:
        from ..evaluation.cardpictures import write_card

        write_card(o.source, o.card, None if o.keep else found, teacher=o.teacher, device=device, cache=o.cache)


def _of_pictures(o: EvaluateOptions, device: "torch.device") -> "Report | None":
    from ..data.names import split_format
    from ..evaluation.classifier import splits
    from ..evaluation.report import picture_source

    sampling = ("seed", "steps", "sigmas", "sampler", "guidance", "precision", "compile", "teacher", "card", "keep")
    _refuse(o, sampling, f"belongs to checkpoints: {o.source} holds pictures")
    files, side, _ = split_format(o.source)
    if not files.endswith(".npz"):
        _refuse(o, ("rounding",), f"is for samples that are no 8-bit pictures yet: those of {o.source} are")
    if o.data is None:
        raise ValueError(f"pictures are compared with a data set: pass --data with {o.source}, such as --data digits")
    return _report(o, device, o.data, picture_source(user_path(files), splits(o.data)[0], o.n, o.batch, o.rounding, o.cache, side))


def _of_model(o: EvaluateOptions, device: "torch.device") -> "Report | None":
    from .. import samplers
    from ..evaluation.report import model_source, points_report
    from ..training.presets import trained_on
    from .common import load, of_data, plan

    model, meta, about = load(o.source, device, o.guidance, o.precision, o.compile)
    data, name = of_data(o.source, model, meta, o.data)
    if model.classes and data.classes not in (0, model.classes):
        raise ValueError(
            f"{o.source} makes samples of {model.classes} classes, {name} has {data.classes}: pass the --data it knows"
        )
    teacher = None
    if o.teacher is not None:
        teacher, taught, _ = load(o.teacher, device, precision=o.precision, compile=o.compile)
        if teacher.traits.consistency or teacher.shape != model.shape:
            raise ValueError(f"--teacher {o.teacher} must be a diffusion model of samples like those of {o.source}")
        if len(sets := sorted({*filter(None, map(trained_on, (meta, taught)))})) > 1:
            raise ValueError(f"--teacher {o.teacher} and {o.source} were trained on different data, {' and '.join(sets)}")
    n = 10_000 if o.n is None else o.n
    if len(model.shape) == 1:
        sampling = ("batch", "sigmas", "steps", "sampler", "precision", "compile")
        measuring = ("metrics", "weights", "reference", "replicates", "cache")
        why = f"is for pictures: {o.source} makes points, measured by sliced Wasserstein distances"
        _refuse(o, (*sampling, *measuring, "features", "rounding"), why)
        return points_report(model, name, o.source, n, o.seed, teacher)
    how = {"n": n, "seed": o.seed, "batch": o.batch, "rounding": o.rounding}
    source = model_source(model, plan(model, o.source, o, about), name=o.source, **how)
    beside = None if teacher is None else model_source(teacher, samplers.plan(teacher), name=str(o.teacher), **how)
    return _report(o, device, name, source, beside)


def _refuse(o: EvaluateOptions, options: tuple[str, ...], why: str) -> None:
    """Raise ValueError for one of ``options`` that is not as it is by default."""
    for field in fields(o):
        if field.name in options and getattr(o, field.name) != field.default:
            raise ValueError(f"--{field.name} {why}")


def _report(
    o: EvaluateOptions, device: "torch.device", data: str, source: "Samples", teacher: "Samples | None" = None
) -> "Report | None":
    from tqdm import tqdm

    from ..evaluation.features import extractor_for
    from ..evaluation.report import report

    words, total = [word for word in o.metrics.split(",") if word], source.n + (teacher.n if teacher else 0)
    extractor = extractor_for(o.features, data, words, o.weights, device)
    how = {"words": words, "reference": o.reference, "replicates": o.replicates, "teacher": teacher, "cache": o.cache}
    with tqdm(total=total, unit="image", desc="evaluate", disable=None) as bar:

        def drawn(n: int) -> None:
            bar.update(n)
            if bar.n >= total:  # what is left counts as no sample, and takes a minute where nothing is cached
                bar.set_postfix_str("next the real images, kept for the next time")

        return report(source, extractor, data, progress=drawn, **how)
