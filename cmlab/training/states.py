"""Unfinished runs: the states of a training in a folder, from the newest readable one of which it continues to the same bits.

A state is a safetensors file, so nothing in it is ever executed. It is written beside, flushed to the disk and renamed: whenever a
process dies, every state under its own name is whole.
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from ..base.files import PART, beside, existing, locked
from ..formats.checkpoints import SUFFIX, CheckpointError, one_line
from ..formats.header import parse, read_text
from .trainer import Snapshot

FORMAT = 1
_KEY = "cmlab-state"
POINTS = 200  # of a loss curve, at most


def write_state(path: Path, snapshot: Snapshot) -> None:
    """Raises CheckpointError where it cannot be written; what was there before stays as it was."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header = {_KEY: json.dumps({"format": FORMAT, **snapshot.facts})}
    try:
        with beside(path) as part:
            save_file({k: v.detach().cpu().contiguous() for k, v in snapshot.tensors.items()}, part, header)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"cannot save the state {path} ({error}): earlier ones are as they were. Make room, then continue with --resume"
        ) from error


def read_state(path: Path) -> Snapshot:
    """Raises CheckpointError for a file that is damaged, cut short or no state of this cmlab."""
    from safetensors import SafetensorError, safe_open

    try:
        facts = parse(read_text(path, _KEY) or "")
        with safe_open(path, framework="pt") as file:
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged or no state of a run ({one_line(error)})") from error
    if facts.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path} has another format than this cmlab's {FORMAT}: finish the run with the cmlab that began it")
    return Snapshot(tensors, facts)


@dataclass(frozen=True)
class RunFolder:
    """The states of one run, the last ``keep`` of which are kept."""

    path: Path
    keep: int = 2

    def states(self) -> list[Path]:
        """Newest first."""
        return sorted(self.path.glob(f"state-*{SUFFIX}"), reverse=True)

    def save(self, snapshot: Snapshot) -> Path:
        """Write the state, then remove those that are no longer kept, and what a killed process left of one."""
        path = self.path / f"state-{snapshot.facts['step']:08d}{SUFFIX}"
        write_state(path, snapshot)
        for old in [*self.states()[self.keep :], *self._parts()]:
            old.unlink(missing_ok=True)
        return path

    def _parts(self) -> list[Path]:
        return list(self.path.glob(f"state-*{PART}"))

    def newest(self) -> tuple[Snapshot, Path, list[str]]:
        """The newest readable state, its file, and a line for each newer one that is not.

        Raises CheckpointError where there is none.
        """
        wrong: list[str] = []
        for path in self.states():
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
                    raise ValueError(
                        f"another process is training {self.path.name} in {self.path.parent}: wait for it, or choose another --out"
                    )
                yield
        finally:
            if made:  # of a run that is refused nothing stays
                with suppress(OSError):
                    self.path.parent.rmdir()

    def clear(self) -> None:
        """Remove all states, and the folder if nothing else is in it."""
        for path in [*self.states(), *self._parts()]:
            path.unlink(missing_ok=True)
        if self.path.is_dir() and not any(self.path.iterdir()):
            self.path.rmdir()


@dataclass
class Curves:
    """What a run remembers of its way, with its states and at last in its checkpoint: [step, value] pairs.

    Each loss is the mean of the steps since the pair before that were made, ``fd`` what --fd-every measured. The rest is the
    part of a mean that is not complete yet.
    """

    steps: int
    loss: list[list[float]] = dataclasses.field(default_factory=list)
    fd: list[list[float]] = dataclasses.field(default_factory=list)
    step: int = 0
    skipped: int = 0
    total: float = 0.0
    made: int = 0

    def due(self, step: int) -> bool:
        """Whether a pair of losses ends at this step."""
        return step % math.ceil(self.steps / POINTS) == 0 or step == self.steps

    def see(self, step: int, loss: float, skipped: int) -> None:
        """``loss``: mean since the last call; ``skipped``: steps so far that were not made."""
        made = step - self.step - (skipped - self.skipped)
        self.step, self.skipped = step, skipped
        if made:
            self.total, self.made = self.total + made * loss, self.made + made
        if self.due(step) and self.made:
            self.loss.append([step, _short(self.total / self.made)])
            self.total, self.made = 0.0, 0

    def measured(self, step: int, fd: float) -> None:
        """A Frechet distance after ``step`` steps."""
        self.fd.append([step, _short(fd)])

    def facts(self) -> dict[str, Any]:
        """All of it, as `Curves` takes it back."""
        return asdict(self)

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


def check_finished(about: dict[str, Any], name: str, options: Any, path: Path) -> None:
    """Raises CheckpointError unless ``path``, whose header says ``about``, is what a run ``name`` with these options has made."""
    if about.get("preset", name) != name:
        raise CheckpointError(f"{path} is {about['preset']}, not {name}: choose another --out, or pass --overwrite")
    if "options" in about:  # files of earlier versions do not tell
        check_unchanged(about["options"], resumed(flatten(options), about["options"]), path)


def resumed(now: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """Options of a run that goes on: "auto" is the precision with which it began, here or on another machine."""
    return now | {"precision": saved["precision"]} if now.get("precision") == "auto" and "precision" in saved else now


def check_unchanged(saved: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    """Raises CheckpointError that names the first option in which a run differs from its saved state."""
    for name in dict.fromkeys([*now, *saved]):
        if saved.get(name) == now.get(name):
            continue
        before, option = saved.get(name), "--" + name.replace("_", "-")
        if isinstance(before, list):
            before = " ".join(map(str, before))
        raise CheckpointError(
            f"{where} was saved with {option} {before}, not {now.get(name)}: resume with {option} {before}, "
            "or pass --overwrite to start anew"
        )
