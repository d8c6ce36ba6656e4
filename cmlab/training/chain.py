"""A teacher, its students, their figures and their cards: stages one after the other, which go on wherever they were stopped.

Every stage is an ordinary run that resumes. Figures lie in the checkpoints' headers, where the next start finds them.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..base.device import choose_device
from ..base.files import write_whole
from ..base.signals import Interrupted
from ..base.text import count
from ..denoiser import Denoiser
from ..evaluation.card import keep_facts, keep_figures
from ..evaluation.cardpictures import write_card
from ..evaluation.classifier import need_classifier
from ..evaluation.features import extractor_for
from ..evaluation.report import Report, model_source, quick_fd, report
from ..formats import checkpoints
from ..formats.checkpoints import SUFFIX
from ..methods.search import greedy_search, search_grid
from ..samplers import Plan, plan
from . import session
from .options import TrainOptions
from .processes import from_environment
from .published import Preset
from .states import flatten

GRID, SEARCH_SEED = 40, 1_000_000  # the search has other seeds than the figures
WORDS = ("fd", "kd", "accuracy")


@dataclass(frozen=True)
class Stage:
    """One model of a chain: its preset and options, and the words after 'cmlab train' that say the same."""

    name: str
    preset: Preset
    run: TrainOptions
    words: list[str]

    @property
    def file(self) -> Path:
        return self.run.out / f"{self.name}{SUFFIX}"

    @property
    def card(self) -> Path:
        return self.file.with_suffix(".md")


def run(name: str, stages: Sequence[Stage], n: int, search: int, again: str) -> None:
    """Train the stages, the teacher first, measure each on ``n`` samples, and write their cards.

    Args:
        name: of the chain; its record NAME.json says with which options it was begun.
        search: samples that the noise level of two steps is searched on.
        again: the command that goes on with it, for the message of a chain that was stopped.

    Raises ValueError for other options than it was begun with, and Interrupted when it was stopped by a signal.
    """
    if from_environment().world_size > 1:
        raise ValueError("a chain runs in one process: train its stages one by one under torchrun, then start the chain alone")
    first, device = stages[0], choose_device(stages[0].run.device)
    need_classifier(first.preset.data_name, "its models cannot be measured. Train the presets one by one")
    record = first.run.out / f"{name}.json"
    _check_same(stages, record)
    write_whole(record, json.dumps({stage.name: flatten(stage.preset) for stage in stages}, indent=1).encode())
    try:
        teacher = None  # its figures
        for stage in stages:
            session.train(stage.name, stage.preset, replace(stage.run, resume=True), device, stage.words)
            found = _measure_stage(stage, n, search, device, teacher)
            teacher = teacher or found
        for stage in stages:
            if not stage.card.is_file() or stage.card.stat().st_mtime_ns < stage.file.stat().st_mtime_ns:
                write_card(stage.file, stage.card, teacher=None if stage is first else first.file, device=device)
    except (Interrupted, KeyboardInterrupt) as stop:
        said = str(stop).partition(" Continue with")[0] or "stopped by SIGINT."
        raise Interrupted(getattr(stop, "code", 130), f"{said} Continue with: {again}") from stop
    print(*_summary(stages, n), sep="\n")


def _check_same(stages: Sequence[Stage], record: Path) -> None:
    """Refuse to go on with other options than those that the chain, or a finished stage, was begun with."""
    held = json.loads(record.read_text()) if record.is_file() else {}
    for stage in stages:
        now = flatten(stage.preset)
        for key, before in held.get(stage.name, {}).items():
            if before != now.get(key):
                other = f"began {stage.name} with --{key.replace('_', '-')} {before}, not {now.get(key)}"
                raise ValueError(f"{record} {other}: give the same options again, or another --out")
        if stage.file.is_file():
            about = checkpoints.read_meta(stage.file).get("about") or {}
            if (about.get("preset"), about.get("data", stage.preset.data_name)) != (stage.name, stage.preset.data_name):
                raise ValueError(f"{stage.file} is not {stage.name} on {stage.preset.data_name}: name another --out")


def searched_levels(model: Denoiser, data: str, n: int) -> dict[str, Any]:
    """The two noise levels of `multistep` that are best by FD-cls of ``n`` samples: sigmas, and how they were found."""

    def score(sigmas: tuple[float, ...]) -> float:
        return quick_fd(model, data, n, SEARCH_SEED, sampler="multistep", sigmas=torch.tensor(sigmas, dtype=torch.float64))

    found = greedy_search(score, search_grid(model, GRID), 1)
    facts = {"score": found.score, "one_step": found.best[0].score, "n": n, "evaluations": found.evaluations}
    return {"sigmas": list(found.sigmas), **facts}


def ways(model: Denoiser, two_steps: dict[str, Any] | None = None) -> list[Plan]:
    """How a model is measured: as it is usually sampled, and beside that in 5 steps, or a consistency model in two."""
    about = {} if two_steps is None else {"two_steps": two_steps}
    return [plan(model), plan(model, steps=2 if model.traits.consistency else 5, about=about)]


def measure(model: Denoiser, name: str, data: str, how: Plan, n: int, device: torch.device | str = "cpu") -> Report:
    """FD-cls, KD-cls and, of a conditional model, the class accuracy of ``n`` samples made in one of its `ways`."""
    words = [word for word in WORDS if word != "accuracy" or model.classes]
    source = model_source(model, how, n=n, name=name)
    extractor = extractor_for("classifier", data, words, None, torch.device(device))
    with tqdm(total=n, unit="image", desc=f"{name}, {how.sampler}, {how.steps}", disable=None) as bar:
        found = report(source, extractor, data, words=words, progress=bar.update)
    assert found is not None, "one process alone"
    return found


def find_figures(path: Path, how: Plan, n: int, features: str | None = None) -> dict[str, Any] | None:
    """The report in a checkpoint's header on ``n`` samples made in this way, on the extractor of title ``features``; or None."""
    meta = checkpoints.read_meta(path)
    measured, weight = (meta.get("about") or {}).get("measured", {}), meta.get("guidance", 1)
    asked = {"sampler": how.sampler, "steps": how.steps, "sigmas": how.sigmas.tolist() if how.chosen else None, "n": n}
    asked |= {"guidance": None if weight == 1 else weight, "precision": None}
    asked |= {} if features is None else {"features": features}
    return next((one for one in measured.values() if all(one.get(k) == v for k, v in asked.items())), None)


def _measure_stage(
    stage: Stage, n: int, search: int, device: torch.device, teacher: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Put into the header what is not there yet, figures beside the ``teacher``'s; returns those of the first way."""
    model, meta = checkpoints.load(stage.file, device)
    about, data = dict(meta.get("about") or {}), stage.preset.data_name
    facts = {key: value for key, value in session.run_facts(stage.preset, device).items() if key not in about}
    two = about.get("two_steps")
    if model.traits.consistency and (two is None or two["n"] != search):
        print(f"{stage.name}: searching the level of its second step on {search} samples", flush=True)
        facts["two_steps"] = two = searched_levels(model, data, search)
    if facts:
        keep_facts(stage.file, facts)
    features = extractor_for("classifier", data).title
    for how in (known := ways(model, two)):
        if find_figures(stage.file, how, n, features) is None:
            print(f"{stage.name}: measuring {n} samples, {how.sampler} with {count(how.steps, 'step')}", flush=True)
            found = measure(model, stage.name, data, how, n, device)
            beside = {row["name"]: (row["value"], row["error"]) for row in (teacher or {"figures": ()})["figures"]}
            rows = (row.beside("teacher", *beside[row.name]) if row.name in beside else row for row in found.rows)
            keep_figures(stage.file, replace(found, rows=tuple(rows)))
    return find_figures(stage.file, known[0], n, features)


def _summary(stages: Sequence[Stage], n: int) -> list[str]:
    lines = []
    for stage in stages:
        model, meta = checkpoints.load(stage.file)
        for how in ways(model, (meta.get("about") or {}).get("two_steps")):
            found = find_figures(stage.file, how, n)
            figures = ", ".join(f"{row['name']} {row['value']:.4g}" for row in found["figures"]) if found else "not measured"
            lines.append(f"{stage.file}: {how.sampler}, {count(how.steps, 'step')}: {figures}")
        lines.append(str(stage.card))
    return lines
