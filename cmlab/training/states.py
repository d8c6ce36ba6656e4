"""Unfinished runs: the states of a training in a folder, from the newest readable one of which it continues to the same bits.

A state is a safetensors file, written beside and renamed: whenever a process dies, every state under its own name is whole.
"""

import dataclasses
import json
import math
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..base.files import PART, beside, existing, locked
from ..base.registry import NETWORKS
from ..formats.checkpoints import SUFFIX, CheckpointError, one_line, read_meta
from ..formats.header import parse, read_text
from .settings import FILE, LOG
from .trainer import Snapshot

FORMAT = 1
_KEY = "cmlab-state"
POINTS = 200  # of a loss curve, at most
FAR = 10  # times its first value: a loss above that has gone astray
# Options that a run may go on with other values of; all others decide what it has become already.
CHANGEABLE = ("steps", "lr", "clip", "accumulate")


def write_state(path: Path, snapshot: Snapshot) -> None:
    """Raises CheckpointError where it cannot be written; what was there before stays as it was."""
    header = {_KEY: json.dumps({"format": FORMAT, **snapshot.facts})}
    try:
        with beside(path) as part:
            save_file({k: v.detach().cpu().contiguous() for k, v in snapshot.tensors.items()}, part, header)
    except (OSError, SafetensorError) as error:
        way = "earlier ones are as they were. Make room, then continue with --resume"
        raise CheckpointError(f"cannot save the state {path} ({error}): {way}") from error


def read_facts(path: Path) -> dict[str, Any]:
    """What a state says beside its tensors. Raises CheckpointError for a file that is damaged or no state of this cmlab."""
    try:
        facts = parse(read_text(path, _KEY) or "")
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged or no state of a run ({one_line(error)})") from error
    if facts.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path} has another format than this cmlab's {FORMAT}: finish the run with the cmlab that began it")
    return facts


def read_state(path: Path) -> Snapshot:
    """Raises CheckpointError as `read_facts` does, and for a file that is cut short."""
    facts = read_facts(path)
    try:
        return Snapshot(load_file(path), facts)
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged or no state of a run ({one_line(error)})") from error


@dataclass(frozen=True)
class RunFolder:
    """The states of one run, of which the last ``keep`` and that of step ``spare`` are kept."""

    path: Path
    keep: int = 2
    spare: int = -1

    def states(self) -> list[Path]:
        """Newest first."""
        return sorted(self.path.glob(f"state-*{SUFFIX}"), reverse=True)

    def save(self, snapshot: Snapshot) -> Path:
        """Write the state, then remove those that are no longer kept, and what a killed process left of one."""
        path = self.path / f"state-{snapshot.facts['step']:08d}{SUFFIX}"
        write_state(path, snapshot)
        for later in self.states():  # of the way that was left when the run went back to an earlier state
            if step_of(later) > step_of(path):
                later.unlink(missing_ok=True)
        self.prune(self.keep)
        return path

    def prune(self, keep: int) -> None:
        """Remove all but the newest ``keep`` states and, where any stay, the one from which a longer training goes on exactly."""
        for old in self.states()[keep:]:
            if keep == 0 or step_of(old) != self.spare:
                old.unlink(missing_ok=True)
        for part in list(self.path.glob(f"state-*{PART}")):
            part.unlink(missing_ok=True)

    def newest(self, most: float = math.inf) -> tuple[Snapshot, Path, list[str]]:
        """The newest readable state of at most ``most`` steps, its file, a line for each newer broken one; or CheckpointError."""
        wrong: list[str] = []
        for path in [path for path in self.states() if step_of(path) <= most]:
            try:
                return read_state(path), path, wrong
            except CheckpointError as error:
                wrong.append(str(error))
        what = f"no state in {self.path} can be read: {wrong[0]}" if wrong else f"{self.path} holds no state of a run"
        raise CheckpointError(f"{what}. Pass --overwrite to start anew")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While it lasts no other process trains this run: raises ValueError where one does. A killed one no longer does."""
        made = existing(self.path.parent) != self.path.parent
        with suppress(OSError):  # of which the run itself tells
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.path.with_name(f".{self.path.name}.lock"), wait=False) as ours:
                if not ours:
                    what = f"{self.path.name} in {self.path.parent}"
                    raise ValueError(f"another process is training {what}: wait for it, or choose another --out")
                yield
        finally:
            if made:  # of a run that is refused nothing stays
                with suppress(OSError):
                    self.path.parent.rmdir()

    def clear(self) -> None:
        """Remove what a run has left, and the folder if nothing else is in it."""
        self.prune(0)
        for name in (FILE, LOG):
            (self.path / name).unlink(missing_ok=True)
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()


def step_of(path: Path) -> int:
    """The step that a state's file name says."""
    return int(path.stem.rpartition("-")[2])


@dataclass
class Curves:
    """What a run remembers of its way, with its states and at last in its checkpoint: [step, value] pairs.

    Each loss is the mean of the steps made since the pair before, ``fd`` what --fd-every measured. The rest is a mean under way.
    """

    steps: int
    loss: list[list[float]] = dataclasses.field(default_factory=list)
    fd: list[list[float]] = dataclasses.field(default_factory=list)
    step: int = 0
    skipped: int = 0
    total: float = 0.0
    made: int = 0
    stage: int = -1
    first: float = 0.0  # the loss of the first step, to which the others are compared: of all stages so far the largest

    def due(self, step: int) -> bool:
        """Whether a pair of losses ends at this step."""
        return step % math.ceil(self.steps / POINTS) == 0 or step == self.steps

    def see(self, step: int, loss: float, skipped: int, stage: int = 0) -> None:
        """``loss``: mean since the last call; ``skipped``: steps so far that were not made; ``stage``: of a distillation."""
        made = step - self.step - (skipped - self.skipped)
        self.step, self.skipped = step, skipped
        if made:
            if stage != self.stage:
                self.first, self.stage = max(self.first, loss), stage
            self.total, self.made = self.total + made * loss, self.made + made
        if self.due(step) and self.made:
            self.loss.append([step, _short(self.total / self.made)])
            self.total, self.made = 0.0, 0

    def astray(self, loss: float) -> float:
        """How many times its first value ``loss`` is, where that is more than FAR; else 0."""
        return loss / self.first if self.first > 0 and loss > FAR * self.first else 0.0

    def measured(self, step: int, fd: float) -> None:
        """A Frechet distance after ``step`` steps."""
        self.fd.append([step, _short(fd)])

    def about(self) -> dict[str, list[list[float]]]:
        """For the header of a checkpoint."""
        return {f"{name}_curve": pairs for name, pairs in (("loss", self.loss), ("fd", self.fd)) if pairs}


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def flatten(options: Any, prefix: str = "") -> dict[str, Any]:
    """A dataclass of options as {"loss": "ConsistencyLoss", "loss.bridge": "heun", ...}, as JSON gives it back."""
    return json.loads(json.dumps(dict(_leaves(options, prefix)), default=repr))


def _leaves(options: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for field in fields(options):
        name, value = prefix + field.name, getattr(options, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            yield name, type(value).__name__
            yield from _leaves(value, name + ".")
        else:
            yield name, value


def check_finished(
    about: dict[str, Any], preset: str, options: Any, path: Path, allowed: Collection[str] = ()
) -> dict[str, list[Any]]:
    """Raises CheckpointError unless ``path``, whose header says ``about``, is what ``preset`` with these options has made.

    Returns those of the ``allowed`` ones that are others, as `changes` does.
    """
    if about.get("preset", preset) != preset:
        raise CheckpointError(f"{path} is {about['preset']}, not {preset}: choose another --out or --name, or pass --overwrite")
    if "options" not in about:  # files of earlier versions do not tell
        return {}
    return changes(about["options"], resumed(flatten(options), about["options"]), path, allowed)


def saved_options(out: Path, name: str) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Of the run ``name`` in ``out``: the preset's name, its options as `flatten` makes them, and `RunOptions.kept`.

    Of a finished run without states the result tells. All is empty where there is nothing that can be read.
    """
    for path in RunFolder(out / name).states():
        with suppress(CheckpointError):  # of which the run itself will tell
            facts = read_facts(path)
            return facts.get("made_by", name), facts["preset"], facts.get("run", {})
    with suppress(CheckpointError, OSError):
        about = read_meta(out / f"{name}{SUFFIX}").get("about") or {}
        return about.get("preset", ""), about.get("options", {}), {}
    return "", {}, {}


def resumed(now: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """Options of a run that goes on: "auto" is the precision with which it began, here or on another machine."""
    return now | {"precision": saved["precision"]} if now.get("precision") == "auto" and "precision" in saved else now


def changes(saved: dict[str, Any], now: dict[str, Any], where: Path, allowed: Collection[str] = ()) -> dict[str, list[Any]]:
    """The options with other values ``now`` than in ``where``, {name: [before, now]}; CheckpointError for one not ``allowed``."""
    found = {k: [saved.get(k), now.get(k)] for k in dict.fromkeys([*now, *saved]) if saved.get(k) != now.get(k)}
    networks = {record.facts["config"].__name__: record.name for record in NETWORKS.records()}
    for name, (before, value) in found.items():
        if name not in allowed:
            option = f"--{name.replace('_', '-')}"
            told, way = f"is of a cmlab without the option {option}", "finish the run with that cmlab"
            if name in saved:  # so there is a value to advise
                if name == "network":
                    before, value = (networks.get(kind, kind) for kind in (before, value))
                said = f"{option} {' '.join(map(str, before)) if isinstance(before, list) else before}"
                told, way = f"was saved with {said}, not {value}", f"resume with {said}"
            raise CheckpointError(f"{where} {told}: {way}, or pass --overwrite to start anew")
    return found
