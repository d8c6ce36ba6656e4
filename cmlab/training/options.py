"""The options of 'cmlab train' that decide where a run goes and how it is looked after, not what comes out of it."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..base.files import RUNS, SUFFIX


@dataclass(frozen=True)
class RunOptions:
    """Where a run writes, when it saves, and on what it computes.

    Args:
        out: folder for the result, and for a folder of the run's name with its states, its options and its log.
        name: what the run and its result are called; the preset's name where nothing is said.
        overwrite: replace a result of the same name, or the states of an unfinished run.
        resume: continue a run, to the same bits on a CPU with as many threads; where there is none, begin. It keeps its options.
            Of a model --steps, --lr, --clip and --accumulate can be others from here on, also of one that is finished.
        save_every: save the state after every so many steps; 0 by time alone.
        save_minutes: save the state when so many minutes have passed; 0 by steps alone. SIGTERM and Ctrl-C always save it.
        keep: number of states that are kept, of a finished run the last; 0 keeps none of a finished run.
        device: "auto" takes a GPU where there is one.
        threads: CPU threads; 1 is the fastest for the small models.
    """

    out: Path = RUNS
    name: str = ""
    overwrite: bool = False
    resume: bool = False
    save_every: int = 0
    save_minutes: float = 10.0
    keep: int = 2
    device: str = "auto"
    threads: int = 1

    def check(self) -> None:
        """Raises ValueError for values that cannot be."""
        at_least_one(self, ("threads",))
        if self.keep < 0:
            raise ValueError(f"--keep is at least 0, got {self.keep}")
        odd = self.name != self.name.strip() or not self.name.isprintable() or set(self.name) & set('/\\:*?"<>|')
        if odd or self.name.startswith((".", "-")) or self.name.endswith(SUFFIX):
            raise ValueError(f"--name {self.name!r}: give a plain name without {SUFFIX}, and the folder with --out")
        pauses = [field.name for field in fields(self) if field.name.endswith(("_every", "_minutes"))]
        if min(getattr(self, name) for name in pauses) < 0:
            names = ["--" + name.replace("_", "-") for name in pauses]
            raise ValueError(f"{', '.join(names[:-1])} and {names[-1]} cannot be negative; 0 turns them off")
        if self.resume and self.overwrite:
            raise ValueError("--resume continues a run and --overwrite starts it anew: choose one")

    def said(self) -> dict[str, Any]:
        """Those with other values than by default, but for what one start of a run decides for itself."""
        changed = {field.name: getattr(self, field.name) for field in fields(self) if getattr(self, field.name) != field.default}
        return {name: value for name, value in changed.items() if name not in ("resume", "overwrite")}

    def kept(self) -> dict[str, Any]:
        """Those of them that a run keeps when it goes on, in whatever folder and on whatever device."""
        return {name: value for name, value in self.said().items() if name not in ("out", "name", "device")}


@dataclass(frozen=True)
class TrainOptions(RunOptions):
    """Train a preset and write runs/PRESET.safetensors.

    Args:
        grid_every: draw samples from the same seeds after every so many steps, into PRESET/samples-STEP.png; 0 for none.
        fd_every: measure FD-cls of 1,000 samples after every so many steps (see 'cmlab evaluate'); 0 for never.
        tensorboard: log to TensorBoard, in the folder PRESET.
        compile: let torch compile the networks: slow to start, then faster.
        shard: of several processes each holds a part of the weights, averages and optimizer (FSDP), for models that fill a GPU.
        max_skipped: give up after so many steps in a row whose loss or gradient is not finite.
    """

    grid_every: int = 0
    fd_every: int = 0
    tensorboard: bool = False
    compile: bool = False
    shard: bool = False
    max_skipped: int = 20


@dataclass(frozen=True)
class ClassifierOptions(RunOptions):
    """Train a classifier and write runs/PRESET.safetensors, for 'cmlab evaluate --features PRESET'."""


def at_least_one(options: Any, names: Iterable[str]) -> None:
    """Raises ValueError for one of these options of the command line that is below 1."""
    for name in names:
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(options, name)}")
