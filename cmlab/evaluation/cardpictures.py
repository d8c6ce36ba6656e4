"""The pictures of a model card: curves of the training, samples beside the teacher's, nearest training images."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import plots
from ..base.files import write_png, write_whole
from ..base.text import count
from ..data import ImageData, PixelData
from ..denoiser import Denoiser, classes_in_turn
from ..formats import checkpoints
from ..formats.checkpoints import CheckpointError
from ..samplers import Plan, plan, sample
from ..training.presets import PRESETS, data_of, find
from .card import CURVES, Picture, card
from .classifier import Split, classifier_for, splits, to_pixels
from .features import ClassifierFeatures, real_features
from .report import Report

COLUMNS, BANKS = 12, 2  # seeds 0 to 23
POINTS = 1000  # of a model in the plane
NEIGHBOURS, QUERIES = 3, 10
HELD_OUT = 1000  # real images whose neighbours are looked for, to compare with
PICTURES = ("curves-loss", "curves-fd", "samples", "neighbours")  # behind the card's own name


def write_card(
    checkpoint: str | Path,
    out: Path,
    report: Report | None = None,
    *,
    teacher: str | Path | None = None,
    device: torch.device | str = "cpu",
    cache: str | Path | None = None,
) -> list[Path]:
    """Write the card of a checkpoint to ``out`` (.md) and its pictures beside it; returns all files.

    ``teacher`` is a diffusion model whose samples from the same noise are shown; by default the one that the checkpoint was made
    from, where it is at hand. Raises ValueError and FileNotFoundError for a model whose data cannot be loaded.
    """
    path, pictures = find(str(checkpoint)), []
    model, meta = checkpoints.load(path, device)
    about = dict(meta.get("about") or {})

    def keep(heading: str, tail: str, figure: Any, alt: str, remark: str = "") -> None:
        pictures.append(Picture(heading, f"{out.stem}-{tail}.png", alt, remark))
        write_png(out.parent / pictures[-1].name, figure)

    for key, title in CURVES.items():
        if len(about.get(key, [])) > 1:
            x, y = zip(*about[key], strict=True)
            figure = plots.plot_curves({title: (x, y)}, "step", title, log="y" if min(y) > 0 else "")
            keep("Curves", f"curves-{key.partition('_')[0]}", figure, f"{title} over {x[-1]:,} steps, at last {y[-1]:.4g}")
    image = len(model.shape) == 3
    n = COLUMNS * BANKS if image else POINTS
    own = draw(model, plans_of(model, about), n, device)
    beside = _teacher(teacher, about, model, device)
    rows = own | ({} if beside is None else draw(beside, plans_of(beside, {}, "teacher, "), n, device))
    told = f"Seeds 0 to {n - 1}, the classes in turn; what stands in one column comes from the same noise."
    keep("Samples", "samples", _picture(rows), "samples: " + "; ".join(rows), told if image else "")
    if image:
        data, data_name = data_of(meta)
        assert isinstance(data, ImageData | PixelData)
        figure, remark = _neighbours(list(own.values())[-1], data, data_name, cache)
        alt = f"{QUERIES} samples, each above its {NEIGHBOURS} nearest training images"
        keep("Nearest training images", "neighbours", figure, alt, remark)
    write_whole(out, f"{card(path, report, pictures)}\n".encode())
    return [out, *(out.parent / picture.name for picture in pictures)]


def plans_of(model: Denoiser, about: dict[str, Any], whose: str = "") -> dict[str, Plan]:
    """In which ways a card shows a model, whose samples are told so: two for a consistency model."""
    usual = plan(model, about=about)
    if model.traits.consistency:
        return {"one step": usual, "two steps": plan(model, steps=2, about=about)}
    return {whose + count(usual.steps, "step"): usual}


def draw(model: Denoiser, plans: dict[str, Plan], n: int, device: torch.device | str) -> dict[str, Tensor]:
    """``n`` samples of each plan from the seeds 0 to n - 1 and the classes in turn, on the CPU."""
    label = classes_in_turn(model.classes, n, device=device)
    return {
        name: sample(model, model.shape, range(n), how.sampler, label=label, sigmas=how.sigmas, device=device).cpu()
        for name, how in plans.items()
    }


def _teacher(name: str | Path | None, about: dict[str, Any], model: Denoiser, device: torch.device | str) -> Denoiser | None:
    """The diffusion model that a consistency model comes from, if it is at hand."""
    if name is not None:
        return checkpoints.load(find(str(name)), device)[0]
    if not model.traits.consistency:
        return None
    preset = PRESETS.get(about.get("preset", ""))
    for role in ("teacher", "init"):
        known = about.get(role) or getattr(preset, role, "")
        try:
            found = checkpoints.load(find(known), device)[0] if known not in ("", "oracle") else None
        except CheckpointError:
            continue
        if found is not None and not found.traits.consistency and (found.shape, found.classes) == (model.shape, model.classes):
            return found
    return None


def _picture(rows: dict[str, Tensor]) -> Any:
    if next(iter(rows.values())).ndim == 2:
        return plots.plot_points(rows, size=3)
    banks = {f" ({at} to {at + COLUMNS - 1})": slice(at, at + COLUMNS) for at in range(0, COLUMNS * BANKS, COLUMNS)}
    return plots.plot_images({name + seeds: x[part] for seeds, part in banks.items() for name, x in rows.items()})


def _neighbours(made: Tensor, data: ImageData | PixelData, name: str, cache: str | Path | None) -> tuple[Any, str]:
    """The figure, and how near the nearest training images are, beside those of real images that were not trained on."""
    known, training = classifier_for(name), Split(data, torch.arange(len(data)))
    extractor = ClassifierFeatures(known) if known else None

    def points(split: Split) -> Tensor:
        return real_features(extractor, split, cache=cache).features if extractor else split.pixels(slice(None)).flatten(1).float()

    pixels, images = to_pixels(made), points(training)
    queries = extractor(pixels)[0] if extractor else pixels.flatten(1).float()
    distance, index = torch.cdist(queries, images).topk(NEIGHBOURS, largest=False)
    near = {"sample": made[:QUERIES]}
    near |= {f"nearest {k + 1}": data.take(index[:QUERIES, k]) for k in range(NEIGHBOURS)}
    place = f"features of the classifier {known}" if known else "pixels"
    near_by = f"median distance of {len(made)} samples to the nearest training image {float(distance[:, 0].median()):.3g}"
    remark = f"In {place}; {near_by}"
    _, test, how = splits(name)
    if how == "train, test":  # else the model was trained on those too
        some = Split(test.data, test.index[:HELD_OUT])
        real = torch.cdist(points(some), images).amin(1).median()
        remark += f", of {len(some)} real images that it was not trained on {float(real):.3g}"
    return plots.plot_images(near), remark + "."
