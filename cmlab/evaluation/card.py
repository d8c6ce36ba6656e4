"""Model cards: Markdown from what a checkpoint says about itself and from figures that were measured on it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..base.files import locked
from ..base.text import count, levels, markdown, printable
from ..data import DATASETS
from ..formats import checkpoints
from .classifier import LoadedClassifier
from .report import Report, figure_table

KNOWN = (
    "preset", "data", "data_title", "command", "seconds", "device", "machine", "threads", "images", "quality", "measured",
    "licence", "two_steps", "loss_curve", "fd_curve", "precision", "options", "class_names",
)  # fmt: skip
BUNDLED_LICENCE = "MIT, as far as the authors of cmlab have rights in them. What their data ask for: docs/licences.md."
CURVES = {"loss_curve": "loss", "fd_curve": "FD-cls while training"}


def record_key(measured: dict[str, Any]) -> str:
    """The key under which a report is stored. A later report with an equal key replaces it."""
    told = ("sampler", "steps", "sigmas", "guidance", "precision", "n", "features")
    return ", ".join(str(measured[k]) for k in told if k in measured)


@dataclass(frozen=True)
class Picture:
    """A picture beside a card: the heading it stands under, its file's name, what it shows, and a remark below it."""

    heading: str
    name: str
    alt: str
    remark: str = ""


def keep_figures(path: str | Path, report: Report) -> Path:
    """Put a report into a checkpoint's header, under about.measured; its weights keep their bits. Raises CheckpointError."""
    measured = report.as_dict()
    return keep_facts(path, lambda about: {"measured": {**about.get("measured", {}), record_key(measured): measured}})


def keep_facts(path: str | Path, facts: dict[str, Any] | Callable[[dict[str, Any]], dict[str, Any]]) -> Path:
    """Put ``facts``, or what they make of what it says already, into what a checkpoint says of itself; as `keep_figures`."""
    with locked(checkpoints.resolve(path).parent):  # of two that read, change and write at once, one would be lost
        about = checkpoints.read_meta(path).get("about") or {}
        return checkpoints.keep_about(path, {**about, **(facts(about) if callable(facts) else facts)})


def card(path: str | Path, report: Report | None = None, pictures: Sequence[Picture] = ()) -> str:
    """The model card of a checkpoint as Markdown, with ``report`` beside the figures it holds and ``pictures`` from beside it."""
    file = checkpoints.resolve(path)
    model, meta = checkpoints.load(file)
    about = dict(meta.get("about") or {})
    measured = dict(about.get("measured", {}))
    if report is not None:
        measured[record_key(report.as_dict())] = report.as_dict()
    scalings = {"karras": "EDM"}.get(kind := meta["precond"].get("kind", "karras"), kind)
    consistency = model.traits.consistency
    what = f"consistency model, f(x, {model.traits.levels[0]}) = x" if consistency else f"diffusion model ({scalings})"
    config = ", ".join(f"{k}={v}" for k, v in meta["config"].items())
    facts = {
        "kind": what,
        "samples": f"shape {model.shape}; {model.classes or 'no'} classes",
        "guidance": f"{model.guidance:g}, two evaluations a call; --guidance 1 is without" if model.guidance != 1 else None,
        "network": f"{meta['network']}, {_parameters(model)}, {file.stat().st_size / 1e3:.0f} kB: {config}",
        "preset": about.get("preset"),
        "data": about.get("data") and about.get("data_title", about["data"]),
        "command": f"`{about['command']}`" if "command" in about else None,
        "training": _training(about) if "seconds" in about else None,
        **{key: value for key, value in about.items() if key not in KNOWN},
        **{title: _curve(about[key]) for key, title in CURVES.items() if about.get(key)},
    }
    where = f"cmlab/pretrained/{file.name}" if file.parent == checkpoints.PRETRAINED else str(file)
    lines = [f"# {file.stem}", "", where, "", *_listed(facts), ""]
    if quality := about.get("quality") or measured:
        lines += ["## Measured", "", *([] if measured else [*_listed(quality), ""])]  # a summary where there are no tables
    for one in measured.values():
        lines += [f"{one['samples']}; {one['features']}; {one['reference']}:", "", *markdown(figure_table(one)), ""]
    if (two := about.get("two_steps")) and isinstance(two, dict):
        searched = f"by a search over {two['evaluations']} lists of levels"
        lines += [f"Noise levels of two steps, {searched}: {levels(two['sigmas'])}.", ""]
    for heading in dict.fromkeys(picture.heading for picture in pictures):
        lines += [f"## {heading}", ""]
        for one in (picture for picture in pictures if picture.heading == heading):
            lines += [f"![{one.alt}]({one.name})", "", *((one.remark, "") if one.remark else ())]
    licence = BUNDLED_LICENCE if file.parent == checkpoints.PRETRAINED else "None has been chosen for these weights yet."
    lines += ["## Licence", "", str(about.get("licence") or licence), ""]
    wrong = [f"- {line}" for line in limits(meta, about, measured, consistency)]
    return "\n".join(map(printable, [*lines, "## What it is not good for", "", *wrong]))


def _listed(facts: dict[str, Any]) -> list[str]:
    """Lines of Markdown, one for each fact that is told."""
    told = {key: value for key, value in facts.items() if value is not None}
    return [f"- {key}: {json.dumps(value) if isinstance(value, dict | list) else value}" for key, value in told.items()]


def _parameters(model: nn.Module) -> str:
    return f"{sum(p.numel() for p in model.parameters()):,} parameters"


def _training(about: dict[str, Any]) -> str:
    where = [str(about.get("machine") or about["device"])] if "device" in about else []
    where += [count(about["threads"], "thread")] if "threads" in about else []
    precision = about.get("options", about).get("precision")  # headers of earlier versions hold no options
    where += [precision] if precision else []
    seconds, images = about["seconds"], about.get("images")
    took = f"{seconds / 3600:.1f} hours" if isinstance(seconds, int | float) and seconds >= 5400 else f"{seconds} s"
    seen = f"{images:,} images in " if isinstance(images, int) else ""
    return seen + took + (f" on {', '.join(where)}" if where else "")


def _curve(pairs: list[list[float]], most: int = 6) -> str:
    """Some of the [step, value] pairs, the first and the last among them."""
    n = min(most, len(pairs))
    shown = [pairs[round(k * (len(pairs) - 1) / max(1, n - 1))] for k in range(n)]
    late = n > 1 and pairs[0][0] > 2 * (pairs[1][0] - pairs[0][0])
    return ", ".join(f"{value:.3g} (step {step:,})" for step, value in shown) + ("; not recorded before" if late else "")


def classifier_card(name: str, loaded: LoadedClassifier) -> str:
    """What is known of a classifier of 'cmlab train ...-classifier', whose features 'cmlab evaluate' compares."""
    model, about = loaded.model, loaded.about
    facts = {
        "kind": f"classifier, for 'cmlab evaluate SOURCE --features {name}'",
        "images": f"shape {model.shape}; {model.classes} classes",
        "network": f"{_parameters(model)}: channels={model.config.channels}, blocks={model.config.blocks}",
        **{key: value for key, value in about.items() if key != "options"},
    }
    return "\n".join(map(printable, [f"# {Path(name).stem}", "", *_listed(facts)]))


def limits(meta: dict[str, Any], about: dict[str, Any], measured: dict[str, Any], consistency: bool) -> list[str]:
    """What a reader should not expect of such a checkpoint."""
    shape = meta["shape"]
    data = about.get("data") or about.get("preset", "").rpartition("-")[0]
    known = data or "the data it was trained on"
    out = [f"Anything but {known}: it knows no other samples, and those in the manner of its own alone."]
    if data in DATASETS.of_kind("toy"):
        out.append("Pictures: it makes points in the plane, to learn from and to test methods with.")
    elif data.startswith("digits"):
        out.append("Handwriting that matters: 8 x 8 scans of a few dozen writers, in a hundred kilobytes of weights.")
    elif data.startswith("cifar10"):
        classes = data.partition(":")[2]
        out.append(
            "Pictures that are to look good: 32 x 32 pixels, from a network that is small for them. It serves to study the methods."
            + (f" It knows {classes.replace(',', ', ')} and no other class." if classes else "")
        )
    if len(shape) == 3 and shape[-1] >= 16:
        out.append("Pictures of people or events that someone might take for real.")
    if consistency:
        out.append("Likelihoods and solvers of the probability flow: it jumps to the end of a path and does not follow it.")
    elif about.get("sampler") == "progressive":
        steps = about.get("steps", 1)
        out.append(f"Other numbers of steps than {steps}: progressive distillation made it for that one alone.")
    else:
        out.append("One-step samples: a diffusion model needs a solver's steps; distil it for fewer.")
    if not meta.get("classes"):
        out.append("Samples of a class of your choice: it was trained without labels.")
    elif not meta.get("drops_labels"):
        out.append("Guidance without a classifier: it was never trained without labels.")
    if len(shape) == 3 and not any(row["name"] == "FID" for one in measured.values() for row in one["figures"]):
        out.append("Comparisons with published FIDs: none was measured. FD-cls compares samples of this data set with each other.")
    return out
