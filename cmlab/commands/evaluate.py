"""The command 'cmlab evaluate'."""

import json
from pathlib import Path

import torch
from tqdm import tqdm

from ..base.files import write_whole
from ..data.pictures import SUFFIXES
from ..denoiser import Denoiser
from ..evaluation import report as reports
from ..evaluation.card import keep_figures
from ..evaluation.classifier import splits
from ..evaluation.features import Extractor, extractor_for
from ..evaluation.report import Report, Source
from ..formats import checkpoints
from ..training.presets import find
from .common import checkpoint_of, choose_device, data_of, new_file, plan
from .options import EvaluateOptions


def evaluate(o: EvaluateOptions) -> None:
    """Run 'cmlab evaluate': print the report and write the files that were asked for."""
    device = choose_device(o.device)
    for option, path in (("--json", o.json), ("--card", o.card)):
        if path is not None:
            new_file(path, o.overwrite, option)
    if o.card is not None:
        from ..evaluation.cardpictures import PICTURES  # imports matplotlib

        for name in PICTURES:
            new_file(o.card.with_name(f"{o.card.stem}-{name}.png"), o.overwrite, "--card")
    own = Path(f"{o.source}{checkpoints.SUFFIX}").is_file()  # beside it a folder of its name: the run's states and grids
    pictures = not own and (Path(o.source).is_dir() or o.source.endswith(SUFFIXES))
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


def _of_pictures(o: EvaluateOptions, device: torch.device) -> Report | None:
    default = EvaluateOptions(o.source)
    for option in ("seed", "steps", "sigmas", "sampler", "teacher", "card", "keep"):
        if getattr(o, option) != getattr(default, option):
            raise ValueError(f"--{option} belongs to checkpoints: {o.source} holds pictures")
    if o.rounding != default.rounding and not o.source.endswith(".npz"):
        raise ValueError(f"--rounding is for samples that are no 8-bit pictures yet: those of {o.source} are")
    if o.data is None:
        raise ValueError(f"pictures are compared with a data set: pass --data with {o.source}, such as --data digits")
    source = reports.picture_source(Path(o.source), splits(o.data)[0], o.n, o.batch, o.rounding, o.cache)
    return _report(o, source, extractor_for(o.features, o.data, _words(o), o.weights, device), o.data)


def _of_model(o: EvaluateOptions, device: torch.device) -> Report | None:
    model, meta = checkpoints.load(checkpoint_of(o.source), device)
    data, name = data_of(meta, o.data)
    if tuple(data.shape) != model.shape:
        raise ValueError(f"{o.source} makes samples of shape {model.shape}, {name} has samples of shape {tuple(data.shape)}")
    if model.classes and getattr(data, "classes", 0) not in (0, model.classes):
        raise ValueError(
            f"{o.source} makes samples of {model.classes} classes, {name} has {data.classes}: pass the --data it knows"
        )
    teacher = None if o.teacher is None else checkpoints.load(checkpoint_of(o.teacher), device)[0]
    if teacher is not None and (teacher.precond.consistency or teacher.shape != model.shape):
        raise ValueError(f"--teacher {o.teacher} must be a diffusion model of samples like those of {o.source}")
    if len(model.shape) == 1:
        return _of_points(o, model, teacher, name)
    extractor = extractor_for(o.features, name, _words(o), o.weights, device)
    beside = None if teacher is None else _source(o, teacher, str(o.teacher), device, "heun", 18, None)
    return _report(o, _source(o, model, o.source, device, *plan(model, o, meta.get("about") or {})), extractor, name, beside)


def _of_points(o: EvaluateOptions, model: Denoiser, teacher: Denoiser | None, data: str) -> Report:
    default = EvaluateOptions(o.source)
    sampling, measuring = ("batch", "sigmas", "steps", "sampler"), ("metrics", "weights", "reference", "replicates", "cache")
    for option in (*sampling, *measuring, "features", "rounding"):
        if getattr(o, option) != getattr(default, option):
            raise ValueError(f"--{option} is for pictures: {o.source} makes points, measured by sliced Wasserstein distances")
    return reports.points_report(model, data, o.source, 10_000 if o.n is None else o.n, o.seed, teacher)


def _words(o: EvaluateOptions) -> list[str]:
    return [word for word in o.metrics.split(",") if word]


def _source(
    o: EvaluateOptions, model: Denoiser, name: str, device: torch.device, sampler: str, steps: int, sigmas: torch.Tensor | None
) -> Source:
    return reports.model_source(
        model,
        model.shape,
        model.classes,
        n=10_000 if o.n is None else o.n,
        seed=o.seed,
        sampler=sampler,
        steps=steps,
        sigmas=sigmas,
        batch=o.batch,
        rounding=o.rounding,
        device=device,
        name=name,
    )


def _report(o: EvaluateOptions, source: Source, extractor: Extractor, data: str, teacher: Source | None = None) -> Report | None:
    total = source.n + (teacher.n if teacher else 0)
    with tqdm(total=total, unit="image", desc="evaluate", disable=None) as bar:

        def drawn(n: int) -> None:
            bar.update(n)
            if bar.n >= total:  # what is left counts as no sample, and takes a minute where nothing is cached
                bar.set_postfix_str("next the real images, kept for the next time")

        return reports.report(
            source,
            extractor,
            data,
            words=_words(o),
            reference=o.reference,
            replicates=o.replicates,
            teacher=teacher,
            cache=o.cache,
            progress=drawn,
        )
