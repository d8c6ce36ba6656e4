"""Runs of 'cmlab train': one loop that shows progress, saves, stops and resumes, for models and for classifiers alike.

What is trained is said by a subclass of `Run`: for models in session.py, for classifiers in evaluation/classifier_training.py.
"""

import math
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .. import __version__
from ..base.files import new_file
from ..base.own import command_line
from ..base.signals import Interrupted, answering
from ..formats.checkpoints import SUFFIX, CheckpointError
from .options import RunOptions, at_least_one
from .processes import ALONE, Processes, joined
from .settings import FILE, said, write_config
from .states import RunFolder, changes, check_finished, flatten, read_state, resumed, step_of
from .trainer import Snapshot, has_bf16, usable_precision

LOOK = 2.0  # seconds between looks at a training that runs in one process
TELL = 60.0  # seconds between lines where there is no terminal for a progress bar


class Stop:
    """The first SIGTERM or SIGINT, for the training to end its step and save; a second SIGINT ends it at once."""

    number = 0

    def __call__(self, number: int, frame: object) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


class Run(ABC):
    """One run of a preset, which makes ``targets``, the first of them ``options.out``/NAME.safetensors.

    Args:
        made_by: what the command line calls the preset. It is the run's name too, where ``options.name`` is none.
        preset: what decides the result; a state of other values is refused, but for those of ``changeable`` options.
        options: where the run writes and when it saves.
        device: where it computes.
        args: the command line's, after 'cmlab train'.
        processes: those that train together; the main process speaks and writes for all.
        beside: how the names of further targets end, before the suffix.
    """

    next_command = "sample {}"  # for its result
    changeable: Collection[str] = ()

    def __init__(
        self,
        made_by: str,
        preset: Any,
        options: RunOptions,
        device: torch.device,
        args: Sequence[str],
        processes: Processes = ALONE,
        beside: Sequence[str] = (),
    ):
        options.check()
        at_least_one(preset, ("steps", "batch"))
        for name, value in (flatten(options) | flatten(preset)).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"--{name.replace('_', '-')} is a finite number: got {value}")
        self.made_by, self.preset, self.options, self.device, self.args = made_by, preset, options, device, args
        self.name = name = options.name or made_by
        self.history: list[dict[str, Any]] = []
        self.processes, self.stop = processes, Stop()
        self.folder = RunFolder(options.out / name, max(1, options.keep), self.steady(preset))
        self.target = options.out / f"{name}{SUFFIX}"
        self.targets = [self.target, *(options.out / f"{name}{tail}{SUFFIX}" for tail in beside)]
        self.clocks = {"seconds": time.perf_counter, "cpu_seconds": time.process_time}
        self.begun = datetime.now().isoformat(timespec="seconds")
        self.started = {name: clock() for name, clock in self.clocks.items()}
        self.saved = self.seen = time.monotonic()
        self.under_way = False  # since a step was made, all in its folder is its own

    # --- what is trained, said by subclasses -----------------------------------------------------------------------------

    @abstractmethod
    def header(self) -> dict[str, Any]:
        """What the header of the finished result says."""

    @abstractmethod
    def load(self) -> dict[str, Any]:
        """Load the data and what else the training needs; returns what has to be the same where it resumes: "data", "teacher"."""

    def build(self) -> None:  # noqa: B027 (most have nothing to prepare)
        """Prepare the training, whose precision is known now; raises for what cannot be."""

    @abstractmethod
    def states(self, due: Callable[[int], bool], resume: Snapshot | None) -> Iterator[Any]:
        """Train, and yield a state after each step that is due and after the last. It has step, loss and snapshot()."""

    def steady(self, preset: Any) -> int:
        """How many steps of ``preset`` would be the same if it had more of them."""
        return 0

    def look_at(self, state: Any) -> dict[str, str]:
        """What progress shows; also a place to draw and measure."""
        return {"loss": f"{state.loss:.4g}"}

    def facts(self) -> dict[str, Any]:
        """What a saved state says beside the training's own facts."""
        return {}

    def recall(self, facts: dict[str, Any]) -> None:  # noqa: B027 (most have nothing to recall)
        """Take back what a saved state says."""

    def sound(self, state: Any) -> bool:
        """Whether ``state`` is worth going on from: only such states are saved."""
        return True

    def advice(self, state: Any) -> str:
        """What to do with the result, in words."""
        return f"Next: {self._next()}"

    @abstractmethod
    def finish(self, state: Any) -> str:
        """Write ``targets``, where this is the main process; returns what to say of them."""

    # --- the run ---------------------------------------------------------------------------------------------------------

    def __call__(self) -> None:
        """Begin, resume, or find it finished.

        Raises Interrupted when it was stopped by a signal, ValueError for options that cannot be, CheckpointError (a ValueError)
        for a state that belongs to another run and for a result that cannot be written.
        """
        torch.set_num_threads(self.options.threads)
        with joined(self.processes, self.device), answering(self.stop, signal.SIGTERM, signal.SIGINT), ExitStack() as stack:
            start = self._start(stack)
            if start == "finished":
                return self.say(f"{self.target}: this run is finished. Next: {self._next()}")
            self.same = self.load()
            resume = self._resume(Path(start)) if start else None
            if (asked := self.preset.precision) == "bf16" and self.processes.is_main_process and not has_bf16(self.device):
                print("cmlab: bf16 is emulated here and slower than float32: --precision auto takes what is fast", file=sys.stderr)
            # What a run is continued with must not depend on where: a state holds the precision itself, not "auto".
            self.preset = replace(self.preset, precision=usable_precision(asked, self.device))
            self.build()
            try:
                state = self._loop(resume)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}. {self._way_back()}") from error
            try:
                said = self.finish(state)
            except (OSError, CheckpointError) as error:
                if not self.folder.states():
                    raise
                kept = f"The run is kept in {self.folder.path}: make room, then continue it with --resume"
                raise CheckpointError(f"{self.target} cannot be written ({error.__cause__ or error}). {kept}") from error
            if self.processes.is_main_process:
                # The last state is for a run that goes on longer.
                self.folder.prune(min(1, self.options.keep) if "steps" in self.changeable else 0)
            self.say(f"{said}. {self.advice(state)}")

    def begin(self, step: int) -> None:
        """The main process, once steps after ``step`` are made, so that what is refused removes nothing and leaves nothing.

        The states of another run go, and what was resolved is kept, to be given again.
        """
        if step == 0:
            self.folder.clear()
        write_config(self.folder.path / FILE, self.made_by, self.options.said() | said(flatten(self.preset), {}, every=True))

    def say(self, text: str) -> None:
        """Print a line, once for all processes."""
        if self.processes.is_main_process:
            print(text, flush=True)

    def spent(self) -> dict[str, float]:
        """Seconds, and seconds of the processor, that the run has taken since it began, without pauses."""
        return {name: clock() - self.started[name] for name, clock in self.clocks.items()}

    # --- where it starts -------------------------------------------------------------------------------------------------

    def _start(self, stack: ExitStack) -> str:
        """The state's file to continue from, "" to begin, or "finished": the main process decides, the others follow."""
        answer, error = "", None
        if self.processes.is_main_process:
            try:
                stack.enter_context(self.folder.locked())
                answer = self._where_to_start()
            except (ValueError, OSError) as e:
                error = e
        answer, failed = self.processes.share((answer, error is not None))  # pyright: ignore[reportGeneralTypeIssues]
        if error is not None:
            raise error
        if failed:
            raise SystemExit(1)  # the main process says why
        return answer

    def _where_to_start(self) -> str:
        """Raises ValueError where neither --resume nor --overwrite says what to do."""
        states, o = self.folder.states(), self.options
        if o.resume and states:
            snapshot, path, wrong = self.folder.newest()
            facts, steps = snapshot.facts, snapshot.facts["preset"]["steps"]
            finished = facts["step"] == steps == self.preset.steps and self.target.is_file()
            if finished and self.header().get("started") == facts.get("started"):
                self._check_finished(f"give more than --steps {steps} as well")
                return "finished"
            new_file(self.target, overwrite=True)
            if step_of(states[-1]) > self.preset.steps:
                raise ValueError(f"{states[-1]} is of a later step than --steps {self.preset.steps}: give at least as many")
            most = min(self._same_until(steps), self.preset.steps)
            _, path, wrong = self.folder.newest(most if step_of(states[-1]) <= most else self.preset.steps)
            for line in wrong:
                print(f"cmlab: {line}: taking the one before", file=sys.stderr)
            return str(path)
        if o.resume and self.target.is_file():
            self._check_finished("none of its states is there to go on from, pass --overwrite to start anew")
            return "finished"
        if states and not o.overwrite and not self.target.is_file():
            saved = f"{self.folder.path} holds an unfinished run, saved at step {step_of(states[0])}"
            raise ValueError(f"{saved}: pass --resume to continue it, or --overwrite to start anew")
        for target in self.targets:
            new_file(target, o.overwrite)
        if o.resume:
            self.say(f"there is no run to resume in {self.folder.path}: it begins")
        return ""

    def _check_finished(self, way_out: str) -> None:
        if found := check_finished(self.header(), self.made_by, self.preset, self.target, self.changeable):
            other = " and ".join(f"--{name} {before}, not {now}" for name, (before, now) in found.items())
            raise ValueError(f"{self.target} was finished with {other}: {way_out}")

    def _same_until(self, saved_steps: int) -> float:
        """The last step that is the same in this run and in one of ``saved_steps``."""
        if saved_steps == self.preset.steps:
            return math.inf
        return min(self.steady(self.preset), self.steady(replace(self.preset, steps=saved_steps)))

    def _resume(self, path: Path) -> Snapshot:
        if not path.is_file():
            raise CheckpointError(f"{path} is not to be seen from this host: give --out a folder that all hosts share")
        snapshot = read_state(path)
        facts, saved, step = snapshot.facts, dict(snapshot.facts["preset"]), snapshot.facts["step"]
        found = changes(saved, now := resumed(flatten(self.preset), saved), path, self.changeable)
        self.preset = replace(self.preset, precision=now["precision"])
        for what, value in self.same.items():
            if facts.get(what, value) != value:
                data = self.preset.data if isinstance(self.preset.data, str) else " ".join(self.preset.data)
                other = f"other images than {data} has now: give the same --data, or pass --overwrite to start anew"
                if what == "teacher":
                    other = f"another teacher than {self.preset.teacher} is now: pass --overwrite to start anew"
                raise CheckpointError(f"{path} was saved with {other}")
        if (threads := facts.get("threads", self.options.threads)) != self.options.threads and self.device.type == "cpu":
            self.say(f"it began with --threads {threads}: with {self.options.threads} the last bits differ")
        before = facts.get("spent", facts)  # so classifiers of earlier versions have it
        self.started = {name: start - before.get(name, 0.0) for name, start in self.started.items()}
        self.begun, self.history = facts.get("started", self.begun), facts.get("history", [])
        self.recall(facts)
        self.say(f"continuing at step {step} of {self.preset.steps}, from {path}")
        if found:
            self.history = [*self.history, {"step": step, **found}]
            self.say(f"from here on {', '.join(f'--{name} {new} (it was {old})' for name, (old, new) in found.items())}")
        if "steps" in found and step > self._same_until(saved["steps"]):
            other = f"it is not the same run as one that began with --steps {self.preset.steps}"
            self.say(f"{other}: what it did so far depended on --steps {saved['steps']}")
        return snapshot

    # --- while it runs ---------------------------------------------------------------------------------------------------

    def due(self, step: int) -> bool:
        """Whether to look at the training after this step. With several processes the step alone decides, so that all agree."""
        alone, save_every = self.processes.world_size == 1, self.options.save_every
        every = max(1, min(50 if alone else 10, self.preset.steps // 20))
        if step % every == 0 or step == self.folder.spare or (save_every and step % save_every == 0):
            return True
        return alone and (bool(self.stop.number) or time.monotonic() - self.seen > LOOK)

    def _loop(self, resume: Snapshot | None) -> Any:

        first, steps, state = resume.facts["step"] if resume else 0, self.preset.steps, None
        started = told = time.monotonic()
        hidden = None if self.processes.is_main_process else True
        with tqdm(total=steps, initial=first, unit="step", desc=self.name, disable=hidden) as bar:
            for state in self.states(self.due, resume):
                if self.processes.is_main_process and not self.under_way:
                    self.begin(first)
                self.under_way = True
                numbers = self.look_at(state)
                bar.update(state.step - bar.n)
                bar.set_postfix(numbers)
                if bar.disable and (now := time.monotonic()) - told > TELL:
                    told, rest = now, ", ".join(f"{k}={v}" for k, v in numbers.items())
                    line = tqdm.format_meter(state.step, steps, now - started, 0, self.name, unit="step", initial=first)
                    self.say(f"{line[:-1]}, {rest}]")
                self._save_or_stop(state)
        assert state is not None
        return state

    def _save_or_stop(self, state: Any) -> None:
        self.seen, o, last = time.monotonic(), self.options, state.step == self.preset.steps
        late = o.save_minutes > 0 and self.seen - self.saved > 60 * o.save_minutes
        stopping, late = self.processes.any([self.stop.number > 0, late], self.device)
        due = last or stopping or late or state.step == self.folder.spare or (o.save_every and state.step % o.save_every == 0)
        sound = self.sound(state)
        if due and sound:
            try:
                self._save(state)
            except (OSError, CheckpointError) as error:
                if not last:
                    raise
                print(f"cmlab: {error}", file=sys.stderr)  # the result is smaller, and what counts
            self.saved = time.monotonic()
        if stopping and not last:
            number, where = self.stop.number or signal.SIGTERM, f"step {state.step} of {self.preset.steps}"
            way = f"state saved in {self.folder.path}. Continue with: {self._command('--resume')}"
            if not sound:
                way = f"which is not worth saving. {self._way_back()}"
            raise Interrupted(128 + number, f"stopped by {signal.Signals(number).name} after {where}, {way}")

    def _command(self, *more: str) -> str:
        """The command line of this run with ``more`` behind it."""
        return command_line("train", *(a for a in self.args if a not in ("--overwrite", "--resume")), *more)

    def _next(self) -> str:
        return command_line(*(str(self.target) if word == "{}" else word for word in self.next_command.split()))

    def _way_back(self) -> str:
        """What to do about a training that went astray, in words."""
        states, lower = self.folder.states(), ("--lr", f"{self.preset.lr / 2:g}")
        if not (states and self.under_way):
            over = ["--overwrite"] if states or self.target.is_file() else []
            return f"No state was saved before: begin again with a lower rate, such as {self._command(*lower, *over)}"
        return f"The state of step {step_of(states[0])} is sound. Continue with: {self._command('--resume', *lower)}"

    def _save(self, state: Any) -> None:
        if not self.processes.is_main_process and not self.processes.shard:
            return
        tensors, facts = state.snapshot()  # divided weights are gathered by all processes together
        facts |= {"preset": flatten(self.preset), **self.same, "threads": self.options.threads, "cmlab": __version__}
        facts |= {"made_by": self.made_by, "started": self.begun, "history": self.history, "run": self.options.kept()}
        if self.processes.is_main_process:
            self.folder.save(Snapshot(tensors, facts | self.spent() | self.facts()))
