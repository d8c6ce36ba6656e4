"""What ``cmlab train`` does around `fit`: where files go, states that a run continues from, signals, progress, pictures, logs."""

import hashlib
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from .. import __version__
from ..base.files import write_whole
from ..commands.options import TrainOptions
from ..data import fingerprint
from ..denoiser import Denoise, Denoiser
from ..formats import checkpoints
from ..formats.checkpoints import SUFFIX, CheckpointError
from ..methods.progressive import ProgressiveLoss
from . import presets
from .cost import memory
from .fit import TrainState
from .presets import Preset
from .processes import Processes, from_environment, joined
from .states import Curves, RunFolder, check_finished, check_unchanged, flatten, read_state, resumed
from .trainer import Precision, Snapshot, has_bf16, usable_precision

GRID = 64  # pictures, or points times 16, that --grid-every draws
FD_SAMPLES = 1000  # that --fd-every measures
LOOK = 2.0  # seconds between looks at a training that runs in one process
TELL = 60.0  # seconds between lines where there is no terminal for a progress bar


class Interrupted(Exception):
    """Training was asked to stop, and has saved its state. ``code`` is the shell's status for the signal."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


class Stop:
    """The first SIGTERM or SIGINT, for the training to end its step and save; a second SIGINT ends it at once."""

    number = 0

    def __call__(self, number: int, frame: object) -> None:
        if self.number and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    @contextmanager
    def watching(self) -> Iterator["Stop"]:
        if threading.current_thread() is not threading.main_thread():  # only the main thread is told of signals
            yield self
            return
        before = {number: signal.signal(number, self) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def train(name: str, preset: Preset, o: TrainOptions, device: torch.device, words: list[str]) -> None:
    """Train ``preset`` into ``o.out``/NAME.safetensors, alone or as one of several processes. ``words``: the command line's."""
    for option in ("threads", "keep", "max_skipped"):
        if getattr(o, option) < 1:
            raise ValueError(f"--{option.replace('_', '-')} must be at least 1, got {getattr(o, option)}")
    for option in ("steps", "batch", "accumulate"):
        if getattr(preset, option) < 1:
            raise ValueError(f"--{option} must be at least 1, got {getattr(preset, option)}")
    if min(o.save_every, o.grid_every, o.fd_every, o.save_minutes) < 0:
        raise ValueError("--save-every, --save-minutes, --grid-every and --fd-every cannot be negative; 0 turns them off")
    if o.resume and o.overwrite:
        raise ValueError("--resume continues a run and --overwrite starts it anew: choose one")
    processes = from_environment(o.shard)
    processes.rows(preset.batch)
    torch.set_num_threads(o.threads)
    with joined(processes, device), Stop().watching() as stop, ExitStack() as stack:
        _Session(name, preset, o, device, words, processes, stop).run(stack)


def choose_precision(precision: Precision, device: torch.device, tell: bool) -> Precision:
    """See `usable_precision`; a line about bf16 that is only emulated, where ``tell``."""
    if precision == "bf16" and tell and not has_bf16(device):
        print("cmlab: bf16 is emulated here and slower than float32: --precision auto takes what is fast", file=sys.stderr)
    return usable_precision(precision, device)


def where_to_start(folder: RunFolder, targets: Sequence[Path], resume: bool, overwrite: bool) -> str:
    """The state's file to continue from, "" to begin, or "finished"; raises ValueError where neither option says what to do.

    ``targets``: the files that the run is to write.
    """
    from ..base.files import new_file

    states = folder.states()
    if resume and states:
        new_file(targets[0], overwrite=True)
        _, path, wrong = folder.newest()
        for line in wrong:
            print(f"cmlab: {line}: taking the one before", file=sys.stderr)
        return str(path)
    if resume and targets[0].is_file():
        return "finished"
    if states and not overwrite:
        raise ValueError(
            f"{folder.path} holds an unfinished run, saved at step {int(states[0].stem.rpartition('-')[2])}: "
            "pass --resume to continue it, or --overwrite to start anew"
        )
    for target in targets:
        new_file(target, overwrite)
    return ""


def stopped(number: int, step: int, steps: int, folder: RunFolder, words: list[str]) -> Interrupted:
    """What a run that was asked to stop by signal ``number`` ends with. ``words``: the command line's after 'cmlab train'."""
    kept = [word for word in words if word not in ("--overwrite", "--resume")]
    return Interrupted(
        128 + number,
        f"stopped by {signal.Signals(number).name} after step {step} of {steps}, state saved in "
        f"{folder.path}. Continue with: {' '.join(['cmlab train', *kept, '--resume'])}",
    )


class _Session:
    def __init__(
        self, name: str, preset: Preset, o: TrainOptions, device: torch.device, words: list[str], processes: Processes, stop: Stop
    ):
        self.name, self.preset, self.o, self.device, self.words = name, preset, o, device, words
        self.processes, self.stop = processes, stop
        self.target, self.folder = o.out / f"{name}{SUFFIX}", RunFolder(o.out / name, o.keep)
        self.targets = [self.target, *(self.target.with_name(f"{name}-ema-{decay}{SUFFIX}") for decay in preset.emas)]
        self.started, self.before = time.perf_counter(), 0.0
        self.saved = self.seen = time.monotonic()
        self.curves = Curves(preset.steps)

    def run(self, stack: ExitStack) -> None:
        path = self._start(stack)
        if path == "finished":
            return self._say(f"{self.target}: this run is finished. Next: cmlab sample {self.target}")
        teacher = presets.load_teacher(self.preset)
        self.teacher, self.data = _digest(self.preset.teacher), presets.training_data(self.preset)
        self.images = fingerprint(self.data)
        resume = self._resume(Path(path)) if path else None
        # What a run is continued with must not depend on where: a state holds the precision itself, not "auto".
        precision = choose_precision(self.preset.precision, self.device, self.processes.is_main_process)
        self.preset = replace(self.preset, precision=precision)
        model = presets.build_model(self.preset)
        if self.o.fd_every:
            _check_fd(self.preset.data_name, model.shape)
        if (text := memory(model, self.preset, self.processes)) and self.processes.is_main_process:
            print(text)
        if self.o.overwrite and self.processes.is_main_process:
            self.folder.clear()
        state = self._loop(model, teacher, resume)
        averages = [state.trainer.whole(ema) for ema in state.emas]
        if self.processes.is_main_process:
            try:
                self._finish(state, averages)
            except (OSError, CheckpointError) as error:
                if not self.folder.states():
                    raise
                reason = error.__cause__ or error
                raise CheckpointError(
                    f"{self.target} cannot be written ({reason}). The run is kept in {self.folder.path}: make room, then continue "
                    "it with --resume"
                ) from error

    # --- where it starts -------------------------------------------------------------------------------------------------

    def _start(self, stack: ExitStack) -> str:
        """The state's file to continue from, "" to begin, or "finished": the first process decides, the others follow."""
        answer, error = "", None
        if self.processes.is_main_process:
            try:
                stack.enter_context(self.folder.locked())
                answer = where_to_start(self.folder, self.targets, self.o.resume, self.o.overwrite)
                if answer == "finished":
                    about = checkpoints.read_meta(self.target).get("about") or {}
                    check_finished(about, self.name, self.preset, self.target)
            except (ValueError, OSError) as e:
                error = e
        answer, failed = self.processes.share((answer, error is not None))  # pyright: ignore[reportGeneralTypeIssues]
        if error is not None:
            raise error
        if failed:
            raise SystemExit(1)  # the first process says why
        return answer

    def _resume(self, path: Path) -> Snapshot:
        if not path.is_file():
            raise CheckpointError(f"{path} is not to be seen from this host: give --out a folder that all hosts share")
        snapshot = read_state(path)
        saved = dict(snapshot.facts["preset"])
        check_unchanged(saved, now := resumed(flatten(self.preset), saved), path)
        self.preset = replace(self.preset, precision=now["precision"])
        if snapshot.facts["teacher"] != self.teacher:
            raise CheckpointError(
                f"{path} was saved with another teacher than {self.preset.teacher} is now: pass --overwrite to start anew"
            )
        if snapshot.facts.get("data", self.images) != self.images:  # states of earlier versions do not tell
            raise CheckpointError(
                f"{path} was saved with other images than {self.preset.data} has now: give the same --data, or pass --overwrite to "
                "start anew"
            )
        if (threads := snapshot.facts.get("threads", self.o.threads)) != self.o.threads and self.device.type == "cpu":
            self._say(f"it began with --threads {threads}: with {self.o.threads} the last bits differ")
        self.before = snapshot.facts["seconds"]
        if curves := snapshot.facts.get("curves"):  # states of earlier versions have none
            self.curves = Curves(**curves)
        self._say(f"continuing at step {snapshot.facts['step']} of {self.preset.steps}, from {path}")
        return snapshot

    # --- while it runs ---------------------------------------------------------------------------------------------------

    def _due(self, step: int) -> bool:
        """Whether to look at the training after this step. What many processes do at once depends on the step alone."""
        every = max(1, min(50 if self.processes.world_size == 1 else 10, self.preset.steps // 20))
        asked = (every, self.o.save_every, self.o.grid_every, self.o.fd_every)
        if self.curves.due(step) or any(n and step % n == 0 for n in asked):
            return True
        return self.processes.world_size == 1 and (bool(self.stop.number) or time.monotonic() - self.seen > LOOK)

    def _loop(self, model: Denoiser, teacher: Denoise | None, resume: Snapshot | None) -> TrainState:
        from tqdm import tqdm

        state = None
        first = resume.facts["step"] if resume else 0
        hidden = None if self.processes.is_main_process else True
        started = told = time.monotonic()
        with (
            self._tensorboard(first) as log,
            tqdm(total=self.preset.steps, initial=first, unit="step", desc=self.name, disable=hidden) as bar,
        ):
            for state in presets.run(
                self.preset,
                self._due,
                self.device,
                model=model,
                teacher=teacher,
                data=self.data,
                resume=resume,
                processes=self.processes,
                compile=self.o.compile,
                max_skipped=self.o.max_skipped,
            ):
                self.curves.see(state.step, state.loss, state.skipped)
                bar.update(state.step - bar.n)
                numbers = {"loss": f"{state.loss:.4g}", "per_s": f"{state.images_per_s:.0f}"}
                numbers |= {"skipped": str(state.skipped)} if state.skipped else {}
                bar.set_postfix(numbers)
                if self.processes.is_main_process and bar.disable and (now := time.monotonic()) - told > TELL:
                    told, rest = now, ", ".join(f"{k}={v}" for k, v in numbers.items())
                    line = tqdm.format_meter(state.step, self.preset.steps, now - started, 0, self.name, unit="step", initial=first)
                    self._say(f"{line[:-1]}, {rest}]")
                for key in ("loss", "images_per_s", "skipped") if log else ():
                    log.add_scalar(key, getattr(state, key), state.step)
                self._look(state, log)
        assert state is not None
        return state

    def _look(self, state: TrainState, log: Any) -> None:
        grid, fd = (n > 0 and state.step % n == 0 for n in (self.o.grid_every, self.o.fd_every))
        model = state.trainer.whole(state.ema) if grid or fd else None
        if self.processes.is_main_process and isinstance(model, Denoiser):
            model = model.to(self.device)
            if grid:
                self._draw(state.step, model, log)
            if fd:
                self._measure(state.step, model, log)
        self.seen = time.monotonic()
        late = self.o.save_minutes > 0 and self.seen - self.saved > 60 * self.o.save_minutes
        stopping, late = self.processes.any([self.stop.number > 0, late], self.device)
        if state.step == self.preset.steps:
            return self._keep_last(state)
        if stopping or late or (self.o.save_every and state.step % self.o.save_every == 0):
            if self.processes.is_main_process or self.processes.shard:
                self._save(state)
            self.saved = time.monotonic()
        if stopping:
            raise stopped(self.stop.number or signal.SIGTERM, state.step, self.preset.steps, self.folder, self.words)

    def _keep_last(self, state: TrainState) -> None:
        """A state of the finished training, for the case that its result cannot be written."""
        if not self.processes.is_main_process and not self.processes.shard:
            return
        try:
            self._save(state)
        except (OSError, CheckpointError) as error:  # the result is smaller, and what counts
            print(f"cmlab: {error}", file=sys.stderr)

    def _plan(self, step: int, model: Denoiser) -> tuple[str, int]:
        """Sampler and number of steps for what the model is after ``step``."""
        if isinstance(self.preset.loss, ProgressiveLoss):
            return "progressive", self.preset.loss.n((step - 1) / self.preset.steps)
        return ("onestep", 1) if model.precond.consistency else ("heun", 18)

    def _draw(self, step: int, model: Denoiser, log: Any) -> None:
        path = self.folder.path / f"samples-{step:08d}.png"
        grid = _draw(model, path, *self._plan(step, model), self.device, f"step {step}")
        if log and grid is not None:
            log.add_image("samples", grid, step, dataformats="HWC" if grid.ndim == 3 else "HW")

    def _measure(self, step: int, model: Denoiser, log: Any) -> None:
        from tqdm import tqdm

        from ..evaluation.report import quick_fd

        sampler, steps = self._plan(step, model)
        fd = quick_fd(model, self.preset.data_name, FD_SAMPLES, sampler=sampler, steps=steps)
        self.curves.measured(step, fd)
        if log:
            log.add_scalar("FD-cls", fd, step)
        tqdm.write(f"step {step}: FD-cls {fd:.4g} of {FD_SAMPLES} samples, {sampler} with {steps} step{'s' * (steps > 1)}")

    def _save(self, state: TrainState) -> None:
        tensors, facts = state.snapshot()
        ours = {
            "preset": flatten(self.preset),
            "teacher": self.teacher,
            "data": self.images,
            "threads": self.o.threads,
            "seconds": self.before + time.perf_counter() - self.started,
            "cmlab": __version__,
            "curves": self.curves.facts(),
        }
        if self.processes.is_main_process:
            self.folder.save(Snapshot(tensors, facts | ours))

    @contextmanager
    def _tensorboard(self, first: int) -> Iterator[Any]:
        if not self.o.tensorboard or not self.processes.is_main_process:
            yield None
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("--tensorboard needs the package: pip install tensorboard, or leave it out") from error
        # What a killed run logged after its last state is logged again.
        with SummaryWriter(str(self.folder.path), purge_step=first + 1 if first else None) as log:
            yield log

    # --- when it is done -------------------------------------------------------------------------------------------------

    def _finish(self, state: TrainState, averages: list[nn.Module]) -> None:
        from ..commands.common import run_facts

        preset, seconds = self.preset, self.before + time.perf_counter() - self.started
        about: dict[str, Any] = {
            "preset": self.name,
            "data": preset.data_name,
            "seconds": round(seconds, 2),
            "command": " ".join(["cmlab train", *self.words]),
            "device": str(self.device),
            "options": flatten(preset),
            **run_facts(preset, self.device),
        }
        model = cast(Denoiser, averages[0])
        if isinstance(preset.loss, ProgressiveLoss):
            about["sampler"], about["steps"] = self._plan(state.step, model)
        if self.device.type == "cpu":
            about["threads"] = self.o.threads
        if self.processes.world_size > 1:
            about["processes"] = self.processes.world_size
        if state.skipped:
            about["skipped"] = state.skipped
        if model.classes:
            about["class_names"] = list(getattr(self.data, "class_names", ()))
        about |= self.curves.about()
        dtype = torch.float16 if preset.half else None
        for path, ema in zip(reversed(self.targets), reversed(averages), strict=True):  # the result last: it says "finished"
            assert isinstance(ema, Denoiser)
            checkpoints.save(path, ema, about, dtype)
        self.folder.clear()
        skipped = f", {state.skipped} steps skipped as not finite" if state.skipped else ""
        self._say(
            f"{self.target}: {preset.steps} steps in {seconds:.0f} s, last loss {state.loss:.4g}{skipped}. "
            f"Next: cmlab sample {self.target}"
        )

    def _say(self, text: str) -> None:
        if self.processes.is_main_process:
            print(text, flush=True)


def _digest(name: str) -> str:
    """Of the teacher's file, so that a run does not continue with another one."""
    if name in ("", "oracle"):
        return name
    with presets.find(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_fd(data: str, shape: tuple[int, ...]) -> None:
    from ..evaluation.classifier import CLASSIFIERS, classifier_for, splits

    if classifier_for(data) is None:
        known = ", ".join(name for name in CLASSIFIERS if classifier_for(name))
        raise ValueError(f"--fd-every measures on a classifier that ships, and none knows {data} (only {known}): leave it out")
    if (theirs := splits(data)[0].data.shape) != shape:
        raise ValueError(f"--fd-every compares with {data} of shape {theirs}, this model makes {shape}: leave it out")


def _draw(model: Denoiser, path: Path, sampler: str, steps: int, device: torch.device, title: str) -> Any:
    """Samples from seeds that stay the same, into ``path``; returns the grid of those that are pictures."""
    from ..commands.common import write_png
    from ..plots.figures import image_grid, plot_points
    from ..samplers import sample

    picture = len(model.shape) == 3
    n = GRID if picture else 16 * GRID
    label = torch.arange(n, device=device) % model.classes if model.classes else None
    x = sample(model, model.shape, range(n), sampler, steps, label=label, device=device).cpu()
    if picture:
        grid = image_grid(x, scale=max(1, 64 // model.shape[-1]))
        write_png(path, grid)
        return grid
    write_whole(path, lambda file: plot_points({title: x}, size=4).savefig(file, format="png"))
    return None
