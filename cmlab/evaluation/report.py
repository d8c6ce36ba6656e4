"""How good are the samples? Figures with error bars for a model or for pictures, and beside them those of real images."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base import text
from ..data.pictures import load_npz, load_pictures, npz_arrays
from ..data.pixels import Rounding, to_pixels
from ..denoiser import Denoise, Denoiser, classes_in_turn
from ..noise import seeds_from
from ..samplers import Plan, plan, sample
from ..training.processes import ALONE, Processes, from_environment, joined
from .classifier import Split, fitting, need_classifier, splits, way_without_inception
from .features import ClassifierFeatures, Extractor, extract, real_features, spread
from .metrics import METRICS, Features, Reference, error_bar, value_of
from .points import toy_report

MIN_SAMPLES = 10  # every metric is a finite number from here on
REPLICATES = 20  # of the bootstrap: its error bars are themselves known to a sixth


@dataclass(frozen=True)
class Row:
    """One figure of n samples and its bootstrap standard deviation; beside it the same figure of real held-out images.

    ``same_n`` is the figure of only as many samples as there are held-out images, where these are fewer: most metrics depend on
    the number. ``teacher`` is that of another model's samples.
    """

    name: str
    value: float
    error: float
    floor: float | None = None
    floor_error: float | None = None
    same_n: float | None = None
    teacher: float | None = None
    teacher_error: float | None = None

    def beside(self, column: str, value: float, error: float | None) -> "Row":
        """With the figure of other samples as its ``column``: "floor", "same_n" or "teacher"."""
        return replace(self, **{column: value, **({} if column == "same_n" else {f"{column}_error": error})})


@dataclass(frozen=True)
class Report:
    """Figures and what they were measured on, in the words that a model card repeats."""

    samples: str
    features: str
    reference: str
    floor_n: int
    rows: tuple[Row, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: numbers with six digits."""
        figures = [
            {k: round(v, 6) if isinstance(v, float) else v for k, v in asdict(row).items() if v is not None} for row in self.rows
        ]
        return {k: v for k, v in vars(self).items() if k not in ("rows", "facts")} | self.facts | {"figures": figures}

    def text(self) -> str:
        """Lines for a terminal."""
        return "\n".join([self.samples, f"{self.features}; {self.reference}", *text.aligned(figure_table(self.as_dict()))])


def figure_table(measured: dict[str, Any]) -> list[list[str]]:
    """A report as rows of words, the first of them the heading; columns that hold nothing are left out."""
    n = measured["floor_n"]
    rows, columns = measured["figures"], {"value": "samples", "same_n": f"first {n} samples", "teacher": "teacher's samples"}
    columns["floor"] = f"{n} real held-out images" if n else "fresh data"
    used = [c for c in ("value", "same_n", "floor", "teacher") if any(c in row for row in rows)]
    table = [["metric", *(columns[c] for c in used)]]
    for row in rows:
        errors = [row.get("error" if c == "value" else f"{c}_error") for c in used]
        cells = [_number(row[c], error) if c in row else "" for c, error in zip(used, errors, strict=True)]
        table.append([row["name"], *cells])
    return table


def _number(value: float, error: float | None) -> str:
    """Two digits of the error bar, and the value to the same place."""
    if error is None or not 0 < error < np.inf:
        return f"{value:.4g}"
    places = min(6, max(0, 1 - int(np.floor(np.log10(error)))))
    return f"{value:.{places}f} +- {error:.{places}f}"


# --- where samples come from -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Source:
    """``n`` uint8 images in batches: ``draw(start, stop)`` gives images start to stop and their classes, or None."""

    n: int
    batch: int
    shape: tuple[int, ...]
    draw: Callable[[int, int], tuple[Tensor, Tensor | None]]
    labelled: bool
    title: str
    facts: dict[str, Any] = field(default_factory=dict)


def model_source(
    model: Denoiser, how: Plan, *, n: int, seed: int = 0, batch: int = 256, rounding: Rounding = "round", name: str = "model"
) -> Source:
    """Samples of a model, drawn on its device as ``how`` says.

    Sample k has the seed ``seed`` + k and, where there are classes, the class k modulo their number. Raises ValueError for fewer
    than 10 samples.
    """
    device = next(model.parameters()).device
    if n < MIN_SAMPLES or batch < 1:
        raise ValueError(f"--n must be at least {MIN_SAMPLES} and --batch at least 1, got {n} and {batch}")

    def draw(start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        label = classes_in_turn(model.classes, stop - start, start)
        seeds = seeds_from(seed + start, stop - start)
        x = sample(model, model.shape, seeds, how.sampler, label=label, sigmas=how.sigmas, device=device)
        return to_pixels(x.cpu(), rounding), label

    levels, weight = how.sigmas.tolist() if how.chosen else None, model.guidance
    compute = "" if model.compute is None else str(model.compute).removeprefix("torch.")
    told = "" if levels is None else f" (levels {text.levels(levels)})"
    told += ("" if weight == 1 else f", guidance {weight:g}") + (compute and f", computed in {compute}")
    title = f"{name}: {n} samples, {how.sampler}, {text.count(how.steps, 'step')}{told}, seeds {seed} to {seed + n - 1}, {rounding}"
    facts = {"n": n, "sampler": how.sampler, "steps": how.steps, "seed": seed, "rounding": rounding}
    facts |= ({} if levels is None else {"sigmas": levels}) | ({} if weight == 1 else {"guidance": weight})
    facts |= {"precision": compute} if compute else {}
    return Source(n, batch, tuple(model.shape), draw, model.classes > 0, title, facts)


def picture_source(
    path: Path,
    split: Split,
    n: int | None = None,
    batch: int = 256,
    rounding: Rounding = "round",
    cache: str | Path | None = None,
    resolution: int | None = None,
) -> Source:
    """Pictures of a folder, archive or .npz (of 'cmlab sample' or OpenAI's) that shall resemble those of ``split``.

    ``resolution`` is the side that pictures from files are cut and resized to; None takes them as they are. Raises ValueError for
    pictures of another size, none at all, or fewer than ``n``.
    """
    label = None
    if path.suffix == ".npz" and (held := _own_samples(path)) is not None:
        pixels, label = to_pixels(held[0], rounding), held[1]
    else:
        shape = split.data.shape
        how: dict[str, Any] = {"channels": 1 if shape[0] == 1 else 3, "resolution": resolution, "cache": cache}
        data = load_npz(path) if path.suffix == ".npz" else load_pictures(path, **how)
        if path.suffix == ".npz" or data.class_names == split.data.class_names:
            label = data.label
        pixels = torch.from_numpy(np.ascontiguousarray(data.pixels[np.arange(len(data))]))
    if tuple(pixels.shape[1:]) != split.data.shape:
        differ = f"the pictures of {path} have the shape {tuple(pixels.shape[1:])}, the data {split.data.shape}"
        raise ValueError(f"{differ}: resize them first, or name them as {path}@{split.data.shape[-1]}")
    n = len(pixels) if n is None else n
    if not MIN_SAMPLES <= n <= len(pixels):
        raise ValueError(f"{path} holds {len(pixels)} pictures, and --n {n} is not between {MIN_SAMPLES} and that")
    known = split.data.classes
    if label is not None and known and len(wrong := label[(label < 0) | (label >= known)]):
        raise ValueError(f"{path} has a class {int(wrong[0])}, the data have 0..{known - 1}")

    def draw(start: int, stop: int) -> tuple[Tensor, Tensor | None]:
        return pixels[start:stop], None if label is None else label[start:stop]

    return Source(n, batch, tuple(pixels.shape[1:]), draw, label is not None, f"{path}: {n} pictures", {"n": n})


def _own_samples(path: Path) -> tuple[Tensor, Tensor | None] | None:
    """x and label of a file of 'cmlab sample', None for another kind."""
    x, label = npz_arrays(path, "x", "label")
    if x is None:
        return None
    if x.ndim != 4 or not np.issubdtype(x.dtype, np.floating) or not np.isfinite(x).all():
        raise ValueError(f"{path} should hold x, finite images (N, C, H, W) in [-1, 1], and holds {x.dtype} {x.shape}")
    if label is None or not len(label):
        return torch.from_numpy(x), None
    if label.dtype.kind not in "iu" or label.shape != (len(x),):
        raise ValueError(f"label of {path} should hold one class number per image, and is {label.dtype} {label.shape}")
    return torch.from_numpy(x), torch.from_numpy(label.astype(np.int64))


# --- reports ---------------------------------------------------------------------------------------------------------------


def sample_features(
    source: Source, extractor: Extractor, team: Processes = ALONE, progress: Callable[[int], object] = lambda n: None
) -> Features | None:
    """Features of all samples, whole batches dealt out over the processes: the same numbers for every number of processes.

    Returns None in all processes but the first.
    """
    mine = {}
    for k, start in enumerate(range(0, source.n, source.batch)):
        if k % team.world_size == team.rank:
            pixels, label = source.draw(start, min(start + source.batch, source.n))
            found = extract(extractor, [pixels])
            mine[k] = Features(found.features, found.logits, label)
            progress(len(pixels))
    if team.world_size > 1:
        everyone: list[Any] | None = [None] * team.world_size if team.is_main_process else None
        torch.distributed.gather_object(mine, everyone)
        if everyone is None:
            return None
        mine = {k: part for parts in everyone for k, part in parts.items()}
    parts = [mine[k] for k in sorted(mine)]
    labels = [part.label for part in parts if part.label is not None]
    label = torch.cat(labels) if labels else None
    return Features(torch.cat([p.features for p in parts]), torch.cat([p.logits for p in parts]), label)


def check_words(extractor: Extractor, words: Sequence[str], labelled: bool, known: bool = True) -> list[str]:
    """The metrics that ``words`` name; without words, all that can be measured. Accuracy needs labels of known classes."""
    if "accuracy" in words and not labelled:
        raise ValueError("accuracy needs the class that each sample was asked for: leave it out of --metrics")
    if "accuracy" in words and not known:
        raise ValueError(f"{extractor.title} does not know the classes of these data: leave accuracy out of --metrics")
    labelled = labelled and known
    return list(dict.fromkeys(words)) or [word for word in extractor.asked if labelled or word != "accuracy"]


def figures(
    extractor: Extractor, words: Sequence[str], fake: Features, reference: Reference, replicates: int = REPLICATES
) -> list[Row]:
    """The figures of samples with their error bars; of more than one sample each."""
    rows = []
    for word in words:
        values = extractor.values(word, fake, reference.real)  # of another library, which does not say how sure it is
        for k, (name, metric) in enumerate(extractor.asked[word].items()):
            value = value_of(metric, fake, reference) if values is None else values[k]
            rows.append(Row(name, value, error_bar(metric, fake, reference, replicates)))
    return rows


def report(
    source: Source,
    extractor: Extractor,
    data: str | Path,
    *,
    words: Sequence[str] = (),
    reference: int | None = None,
    replicates: int = REPLICATES,
    teacher: Source | None = None,
    cache: str | Path | None = None,
    progress: Callable[[int], object] = lambda n: None,
) -> Report | None:
    """Figures of ``source`` against the train images of ``data``, beside those of its test images; see `classifier.splits`.

    Under torchrun the samples are dealt out over the processes; all but the first get None.
    """
    train, test, how = splits(data)
    if source.shape != train.data.shape:
        differ = f"the samples have the shape {source.shape}, {data} {train.data.shape}"
        raise ValueError(f"{differ}: name the data they resemble with --data")
    train, test = spread(train, reference), spread(test, min(source.n, len(test)))
    numbers = extractor.numbers(train.data.class_names)
    words = check_words(extractor, words, source.labelled and train.data.classes > 0, numbers is not None)
    if replicates < 2:
        raise ValueError(f"--replicates must be at least 2, got {replicates}")
    started = time.perf_counter()
    team = from_environment()
    with joined(team, torch.device("cpu")):  # features are gathered on the CPU
        fake = sample_features(source, extractor, team, progress)
        seconds = time.perf_counter() - started
        beside = None if teacher is None else sample_features(teacher, extractor, team, progress)
    if fake is None:
        return None
    real = Reference(real_features(extractor, train, source.batch, cache))
    held_out = real_features(extractor, test, source.batch, cache)
    fewer = fake[: len(held_out)] if len(held_out) < len(fake) else None
    rows = figures(extractor, words, _called(fake, numbers), real, replicates)
    for column, others in {"floor": held_out, "same_n": fewer, "teacher": beside}.items():
        if others is not None:
            found = figures(extractor, words, _called(others, numbers), real, 2 if column == "same_n" else replicates)
            rows = [row.beside(column, other.value, other.error) for row, other in zip(rows, found, strict=True)]
    told = f"against {len(train)} images of {data} ({how})"
    facts = {**source.facts, "seconds": round(seconds, 1)}
    return Report(source.title, extractor.title, told, len(held_out), tuple(rows), facts)


def _called(features: Features, numbers: Tensor | None) -> Features:
    """The same with the extractor's own numbers of the classes, which may be more than the data have."""
    if features.label is None or numbers is None or not len(numbers):
        return features
    return replace(features, label=numbers[features.label])


POINT_DRAWS = 4


def points_report(model: Denoiser, data: str, name: str, n: int, seed: int = 0, teacher: Denoise | None = None) -> Report:
    """Sliced Wasserstein distances of a 2D model (`evaluation.toy_report`): mean and deviation of 4 draws of n points each."""
    started = time.perf_counter()
    draws = [toy_report(model, data, teacher, seed + k, n) for k in range(POINT_DRAWS)]
    spread_of = {key: torch.tensor([draw[key] for draw in draws], dtype=torch.float64) for key in draws[0]}
    floor = spread_of.pop("floor")
    rows = tuple(
        Row(key, float(v.mean()), float(v.std()), *((float(floor.mean()), float(floor.std())) if "rms" not in key else ()))
        for key, v in spread_of.items()
    )
    title = f"{name}: {POINT_DRAWS} x {n} points, seeds {seed} to {seed + POINT_DRAWS - 1}"
    facts = {"n": n, "seed": seed, "seconds": round(time.perf_counter() - started, 1)}
    return Report(title, "sliced Wasserstein distance", f"to {n} points of {data}", 0, rows, facts)


@lru_cache(maxsize=4)
def _quick_reference(classifier: str, data: str, device: torch.device) -> Reference:
    return Reference(extract(ClassifierFeatures(classifier, device), spread(splits(data)[0], None).batches(256)))


def quick_fd(
    model: Denoiser,
    data: str,
    n: int = 1000,
    seed: int = 0,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    sigmas: Tensor | None = None,
    batch: int = 256,
) -> float:
    """FD-cls of ``n`` samples of ``model`` (on its device) to the train images of ``data``: a curve to watch in a training.

    Sampled as `samplers.plan` says, and measured on the first classifier of `fitting`. Nothing is drawn from global generators, and
    the model's mode comes back. Raises ValueError for data whose pictures no classifier takes.
    """
    name = (fitting(data) or [need_classifier(data, f"{way_without_inception(data)}: FD-cls cannot be measured on it")])[0]
    if tuple(model.shape) != (shape := splits(data)[0].data.shape):
        raise ValueError(f"the model makes samples of shape {tuple(model.shape)}, {data} has samples of shape {shape}")
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        source = model_source(model, plan(model, sampler, steps, sigmas), n=n, seed=seed, batch=batch)
        draws = (source.draw(start, min(start + batch, n))[0] for start in range(0, n, batch))
        fake = extract(ClassifierFeatures(name, device), draws)
    finally:
        model.train(training)
    return value_of(METRICS["fd"], fake, _quick_reference(name, data, device))
