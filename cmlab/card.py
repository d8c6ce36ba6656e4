"""Model cards: Markdown from what a checkpoint says about itself and from figures that were measured on it."""

import json
from pathlib import Path
from typing import Any

from . import checkpoints
from .data import TOYS
from .report import Report, figure_table

KNOWN = ("preset", "data", "command", "seconds", "device", "threads", "quality", "measured")


def record_key(measured: dict[str, Any]) -> str:
    """Under which a report is kept: another measurement of the same thing takes its place."""
    return ", ".join(str(measured[k]) for k in ("sampler", "steps", "n", "features") if k in measured)


def keep_figures(path: str | Path, report: Report) -> Path:
    """Put a report into the header of a checkpoint, under about.measured; the weights keep their bits.

    Raises CheckpointError where the file cannot be read or written.
    """
    from safetensors.torch import load_file

    path = checkpoints.resolve(path)
    model, meta = checkpoints.load(path)
    stored = {value.dtype for value in load_file(path).values()}
    if len(stored) != 1:
        raise checkpoints.CheckpointError(f"{path} has weights of several precisions: keep the figures in a file with --json")
    measured = report.as_dict()
    about = dict(meta.get("about") or {})
    about["measured"] = {**about.get("measured", {}), record_key(measured): measured}
    return checkpoints.save(path, model, about, stored.pop())


def card(path: str | Path, report: Report | None = None) -> str:
    """The model card of a checkpoint (a bundled name or a path) as Markdown, with ``report`` beside the figures it holds."""
    file = checkpoints.resolve(path)
    model, meta = checkpoints.load(file)
    about = dict(meta.get("about") or {})
    measured = dict(about.get("measured", {}))
    if report is not None:
        measured[record_key(report.as_dict())] = report.as_dict()
    scalings = {"karras": "EDM"}.get(kind := meta["precond"].get("kind", "karras"), kind)
    lowest = model.precond.levels[0]
    consistency = model.precond.consistency
    what = f"consistency model, f(x, {lowest}) = x" if consistency else f"diffusion model ({scalings})"
    count = sum(p.numel() for p in model.parameters())
    config = ", ".join(f"{k}={v}" for k, v in meta["config"].items())
    facts = [
        ("kind", what),
        ("samples", f"shape {model.shape}; {model.classes or 'no'} classes"),
        ("network", f"{meta['network']}, {count:,} parameters, {file.stat().st_size / 1e3:.0f} kB: {config}"),
        *((key, about[key]) for key in ("preset", "data") if key in about),
        *((("command", f"`{about['command']}`"),) if "command" in about else ()),
        *((("training", _training(about)),) if "seconds" in about else ()),
        *((key, json.dumps(value) if isinstance(value, dict) else value) for key, value in about.items() if key not in KNOWN),
    ]
    lines = [f"# {file.stem}", "", str(file), "", *(f"- {key}: {value}" for key, value in facts), ""]
    if about.get("quality") or measured:
        lines += ["## Measured", ""]
    if about.get("quality"):
        lines += [*(f"- {key}: {value}" for key, value in about["quality"].items()), ""]
    for one in measured.values():
        lines += [f"{one['samples']}; {one['features']}; {one['reference']}:", "", *_markdown(figure_table(one)), ""]
    return "\n".join([*lines, "## What it is not good for", "", *(f"- {line}" for line in limits(meta, about, measured))])


def _training(about: dict[str, Any]) -> str:
    where = [str(about["device"])] if "device" in about else []
    where += [f"{about['threads']} thread{'s' * (about['threads'] != 1)}"] if "threads" in about else []
    return f"{about['seconds']} s" + (f" on {', '.join(where)}" if where else "")


def _markdown(table: list[list[str]]) -> list[str]:
    head, *rows = (f"| {' | '.join(row)} |" for row in table)
    return [head, "|" + "---|" * len(table[0]), *rows]


def limits(meta: dict[str, Any], about: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    """What a reader should not expect of such a checkpoint."""
    shape, precond = meta["shape"], meta["precond"]
    data = about.get("data") or about.get("preset", "").rpartition("-")[0]
    out = [
        f"Anything but {data or 'the data it was trained on'}: it knows no other samples, and those in the manner of its own alone."
    ]
    if data in TOYS:
        out.append("Pictures: it makes points in the plane, to learn from and to test methods with.")
    elif data.startswith("digits"):
        out.append("Handwriting that matters: 8 x 8 scans of a few dozen writers, in a hundred kilobytes of weights.")
    if len(shape) == 3 and shape[-1] >= 16:
        out.append("Pictures of people or events that someone might take for real.")
    consistency = precond.get("kind", "karras") == "karras" and precond.get("sigma_min", 0) > 0
    if consistency:
        out.append("Likelihoods and solvers of the probability flow: it jumps to the end of a path and does not follow it.")
    else:
        out.append("One-step samples: a diffusion model needs a solver's steps; distil it for fewer.")
    if not meta.get("classes"):
        out.append("Samples of a class of your choice: it was trained without labels.")
    elif not meta.get("drops_labels"):
        out.append("Guidance without a classifier: it was never trained without labels.")
    if len(shape) == 3 and not any(row["name"] == "FID" for one in measured.values() for row in one["figures"]):
        out.append("Comparisons with published FIDs: none was measured. FD-cls compares samples of this data set with each other.")
    return out
