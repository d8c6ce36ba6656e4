"""A teacher, its students, their figures and their cards by one command, which goes on wherever it was stopped.

Every stage is an ordinary run of 'cmlab train' that resumes. Figures lie in the checkpoints' headers, where the next start finds
them.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..base.device import choose_device
from ..base.files import write_whole
from ..base.own import command_line
from ..base.registry import LOSSES
from ..denoiser import Denoiser
from ..evaluation.card import keep_facts, keep_figures
from ..evaluation.cardpictures import write_card
from ..evaluation.classifier import classifier_for, classifier_names
from ..evaluation.features import extractor_for
from ..evaluation.report import Report, model_source, quick_fd, report
from ..formats import checkpoints
from ..formats.checkpoints import SUFFIX
from ..methods.search import greedy_search, search_grid
from ..samplers import plan
from ..training import session
from ..training.loop import Interrupted
from ..training.options import TrainOptions
from ..training.presets import get_preset
from ..training.processes import from_environment
from ..training.published import Preset
from ..training.session import run_facts
from ..training.states import flatten
from .chains import CHAINS, Chain, ChainOptions
from .train import preset_command

GRID, SEARCH_SEED = 40, 1_000_000  # the search has other seeds than the figures
WORDS = ("fd", "kd", "accuracy")
OWN = ("--init", "--teacher", "--resume", "--no-resume", "--overwrite")  # the chain's own affair


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


# --- stages ----------------------------------------------------------------------------------------------------------------


def stages_of(name: str, words: list[str]) -> list[Stage]:
    """The stages of the chain ``name``, the teacher first; raises ValueError for options that a stage does not have."""
    chain = CHAINS[name]
    shared = _dealt_out(chain, words)
    out: list[Stage] = []
    for stage in chain.names:
        preset, own = get_preset(stage), shared[stage]
        if out:
            own = own + [w for role in ("init", "teacher") if getattr(preset, role) for w in (f"--{role}", str(out[0].file))]
        command = preset_command(stage, own)
        out.append(Stage(stage, command.preset, command.run, [stage, *own]))
    for field in ("out", "device"):
        if len({getattr(stage.run, field) for stage in out}) > 1:
            raise ValueError(f"all stages of {name} have one --{field}: give it without a method in front")
    if len({stage.preset.data_name for stage in out}) > 1:
        raise ValueError(f"all stages of {name} learn the same data: give --data without a method in front")
    return out


def _dealt_out(chain: Chain, words: list[str]) -> dict[str, list[str]]:
    """Each stage's own words: --METHOD.FIELD belongs to one, every other option to all."""
    methods = {stage.rpartition("-")[2]: stage for stage in chain.names}
    out: dict[str, list[str]] = {stage: [] for stage in chain.names}
    whose = list(chain.names)
    for word in words:
        if word.startswith("--"):
            method, dot, field = word[2:].partition(".")
            if dot and method in LOSSES and method not in methods:
                raise ValueError(f"{word}: the stages are {', '.join(methods)}, and --METHOD.FIELD belongs to one of them")
            whose = [methods[method]] if dot and method in methods else list(chain.names)
            word = f"--{field}" if dot and method in methods else word
            if word.partition("=")[0] in OWN:
                raise ValueError(f"{word}: a chain decides that itself and always goes on; to begin anew name another --out")
        for stage in whose:
            out[stage].append(word)
    return out


def _check_same(stages: list[Stage], record: Path) -> None:
    """Refuse to go on with other options than those that the chain, or a finished stage, was begun with."""
    held = json.loads(record.read_text()) if record.is_file() else {}
    for stage in stages:
        before, now = held.get(stage.name, {}), flatten(stage.preset)
        for key in before:
            if before[key] != now.get(key):
                raise ValueError(
                    f"{record} began {stage.name} with --{key.replace('_', '-')} {before[key]}, not {now.get(key)}: give the same "
                    "options again, or another --out"
                )
        if stage.file.is_file():
            about = checkpoints.read_meta(stage.file).get("about") or {}
            if (about.get("preset"), about.get("data", stage.preset.data_name)) != (stage.name, stage.preset.data_name):
                raise ValueError(f"{stage.file} is not {stage.name} on {stage.preset.data_name}: name another --out")


# --- figures ---------------------------------------------------------------------------------------------------------------


def searched_levels(model: Denoiser, data: str, n: int) -> dict[str, Any]:
    """The two noise levels of `multistep` that are best by FD-cls of ``n`` samples: sigmas, and how they were found."""

    def score(sigmas: tuple[float, ...]) -> float:
        return quick_fd(model, data, n, SEARCH_SEED, sampler="multistep", sigmas=torch.tensor(sigmas, dtype=torch.float64))

    found = greedy_search(score, search_grid(model, GRID), 1)
    facts = {"score": found.score, "one_step": found.best[0].score, "n": n, "evaluations": found.evaluations}
    return {"sigmas": list(found.sigmas), **facts}


def ways(model: Denoiser, two_steps: dict[str, Any] | None) -> list[tuple[str, int, list[float] | None]]:
    """Sampler, steps and levels (None for the default ones) that a model is measured in."""
    if not model.traits.consistency:
        return [("heun", 18, None), ("heun", 5, None)]
    return [("multistep", 1, None), ("multistep", 2, None if two_steps is None else two_steps["sigmas"])]


def measure(
    model: Denoiser, name: str, data: str, way: tuple[str, int, list[float] | None], n: int, device: torch.device | str = "cpu"
) -> Report:
    """FD-cls, KD-cls and, of a conditional model, the class accuracy of ``n`` samples made in one of its `ways`."""
    from tqdm import tqdm

    words = [word for word in WORDS if word != "accuracy" or model.classes]
    how = plan(model, *way)
    source = model_source(model, how, n=n, name=name)
    extractor = extractor_for("classifier", data, words, None, torch.device(device))
    with tqdm(total=n, unit="image", desc=f"{name}, {how.sampler}, {how.steps}", disable=None) as bar:
        found = report(source, extractor, data, words=words, progress=bar.update)
    assert found is not None, "one process alone"
    return found


def _measure_stage(stage: Stage, n: int, search: int, device: torch.device, teacher: Path | None) -> None:
    """Put into the header what is not there yet."""
    model, meta = checkpoints.load(stage.file, device)
    about, data = dict(meta.get("about") or {}), stage.preset.data_name
    facts = {key: value for key, value in run_facts(stage.preset, device).items() if key not in about}
    two = about.get("two_steps")
    if model.traits.consistency and (two is None or two["n"] != search):
        print(f"{stage.name}: searching the level of its second step on {search} samples", flush=True)
        facts["two_steps"] = two = searched_levels(model, data, search)
    if facts:
        keep_facts(stage.file, facts)
    features = extractor_for("classifier", data).title
    for way in ways(model, two):
        if find_figures(stage.file, way, n, features) is None:
            print(f"{stage.name}: measuring {n} samples, {way[0]} with {way[1]} step{'s' * (way[1] > 1)}", flush=True)
            found = measure(model, stage.name, data, way, n, device)
            beside = None if teacher is None else find_figures(teacher, ("heun", 18, None), n, features)
            keep_figures(stage.file, found if beside is None else _with_teacher(found, beside))


def find_figures(
    path: Path, way: tuple[str, int, list[float] | None], n: int, features: str | None = None
) -> dict[str, Any] | None:
    """The report of a checkpoint's header on ``n`` samples made in this way, as `Report.as_dict` gave it, or None.

    ``features``: the title of the extractor that it has to be on.
    """
    measured = (checkpoints.read_meta(path).get("about") or {}).get("measured", {})
    asked = {"sampler": way[0], "steps": way[1], "sigmas": way[2], "n": n} | ({} if features is None else {"features": features})
    return next((one for one in measured.values() if all(one.get(k) == v for k, v in asked.items())), None)


def _with_teacher(found: Report, beside: dict[str, Any]) -> Report:
    values = {row["name"]: row for row in beside["figures"]}
    rows = [
        replace(row, teacher=values[row.name]["value"], teacher_error=values[row.name]["error"]) if row.name in values else row
        for row in found.rows
    ]
    return replace(found, rows=tuple(rows))


# --- the command -----------------------------------------------------------------------------------------------------------


def run(name: str, o: ChainOptions, words: list[str], args: list[str]) -> None:
    """Run 'cmlab train NAME ...' for a chain: begin, go on, or find everything finished. ``words`` of ``args`` are its stages'."""
    if from_environment().world_size > 1:
        raise ValueError("a chain runs in one process: train its stages one by one under torchrun, then start the chain alone")
    stages = stages_of(name, words)
    first = stages[0]
    if classifier_for(data := first.preset.data_name) is None:
        raise ValueError(
            f"no classifier that knows {data} ships ({', '.join(classifier_names())}): its models cannot be measured. "
            "Train the presets one by one"
        )
    record, device = first.run.out / f"{name}.json", choose_device(first.run.device)
    _check_same(stages, record)
    write_whole(record, json.dumps({stage.name: flatten(stage.preset) for stage in stages}, indent=1).encode())
    again = command_line("train", name, *args)
    try:
        for stage in stages:
            session.train(stage.name, stage.preset, replace(stage.run, resume=True), device, stage.words)
            _measure_stage(stage, o.n, o.search, device, None if stage is first else first.file)
        for stage in stages:
            target = stage.file.with_suffix(".md")
            if not target.is_file() or target.stat().st_mtime_ns < stage.file.stat().st_mtime_ns:
                write_card(stage.file, target, teacher=None if stage is first else first.file, device=device)
    except Interrupted as stop:
        raise Interrupted(stop.code, f"{str(stop).partition(' Continue with')[0]} Continue with: {again}") from stop
    except KeyboardInterrupt as stop:
        raise Interrupted(130, f"stopped, and what is finished is kept. Continue with: {again}") from stop
    print("\n".join(_summary(stages, o.n)))


def _summary(stages: list[Stage], n: int) -> list[str]:
    lines = []
    for stage in stages:
        model, meta = checkpoints.load(stage.file)
        for way in ways(model, (meta.get("about") or {}).get("two_steps")):
            found = find_figures(stage.file, way, n)
            figures = ", ".join(f"{row['name']} {row['value']:.4g}" for row in found["figures"]) if found else "not measured"
            lines.append(f"{stage.file}: {way[0]}, {way[1]} step{'s' * (way[1] > 1)}: {figures}")
        lines.append(f"{stage.file.with_suffix('.md')}")
    return lines
