"""Training of models by 'cmlab train': a preset as a `Run`, with pictures and distances while it trains, and a log of them."""

import copy
import hashlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import nn
from tqdm import tqdm

from ..base.device import machine
from ..base.files import write_png
from ..base.own import command_line
from ..base.text import count
from ..data import fingerprint
from ..data.names import title_of
from ..denoiser import Denoiser, classes_in_turn
from ..formats import checkpoints
from ..samplers import plan, sample
from . import presets
from .cost import memory
from .fit import TrainState
from .loop import Run
from .options import TrainOptions, at_least_one
from .presets import Preset
from .processes import from_environment
from .settings import LOG, Log
from .states import CHANGEABLE, Curves, flatten
from .trainer import Snapshot

GRID = 64  # pictures, or points times 16, that --grid-every draws
FD_SAMPLES = 1000  # that --fd-every measures


def train(name: str, preset: Preset, options: TrainOptions, device: torch.device, args: list[str]) -> None:
    """Train ``preset`` into ``options.out``/NAME.safetensors, alone or as one of several processes; see `Run`."""
    at_least_one(options, ("max_skipped",))
    at_least_one(preset, ("accumulate",))
    _ModelRun(name, preset, options, device, args)()


def run_facts(preset: Preset, device: torch.device) -> dict[str, Any]:
    """What a model card tells of a run of ``preset`` on ``device``: the data in words, the machine, the images that were seen."""
    facts = {"data_title": title_of(preset.data_name), "machine": machine(device), "images": preset.steps * preset.batch}
    if preset.precision not in ("float32", "auto"):
        facts["precision"] = preset.precision
    return facts | {role: getattr(preset, role) for role in ("init", "teacher") if getattr(preset, role)}


class _ModelRun(Run):
    changeable = CHANGEABLE
    preset: Preset
    options: TrainOptions

    def __init__(self, name: str, preset: Preset, options: TrainOptions, device: torch.device, args: list[str]):
        processes, beside = from_environment(options.shard), [f"-ema-{decay}" for decay in preset.emas]
        super().__init__(name, preset, options, device, args, processes, beside)
        processes.rows(preset.batch)
        self.curves, self.astray, self.log = Curves(preset.steps), False, None
        self.starts = {stage.start for stage in preset.loss.stages(preset.steps)}

    def header(self) -> dict[str, Any]:
        return checkpoints.read_meta(self.target).get("about") or {}

    def load(self) -> dict[str, Any]:
        self.teacher, self.data = presets.load_teacher(self.preset), presets.training_data(self.preset)
        asked, self.preset = self.preset, presets.suited(self.preset, self.data)
        if asked != self.preset:
            if asked.label_dropout != presets.get_preset(self.made_by).label_dropout:
                raise ValueError(f"{asked.data_name} has no classes, so there is no label to drop: leave --label-dropout out")
            self.say(f"{asked.data_name} has no classes: no label is dropped, and the model is not guided")
        return {"teacher": _digest(self.preset.teacher), "data": fingerprint(self.data)}

    def build(self) -> None:
        usual = self.name == self.made_by and self.preset.data_name == presets.get_preset(self.made_by).data_name
        if self.name in checkpoints.pretrained_names() and not usual:
            self.say(f"{self.target} will stand before the bundled model of that name: --name gives it one of its own")
        self.model = presets.build_model(self.preset)
        measured = _check_fd(self.preset.data_name, self.model.shape) if self.options.fd_every else ""
        for text in filter(None, (measured, memory(self.model, self.preset, self.processes))):
            self.say(text)

    def steady(self, preset: Preset) -> int:
        return 0 if preset.loss.scheduled else preset.steady

    def sound(self, state: TrainState) -> bool:
        return state.trainer.in_a_row == 0 and not self.curves.astray(state.loss)

    def advice(self, state: TrainState) -> str:
        if times := self.curves.astray(state.loss):
            return f"Its loss is {times:.0f} times what it was at first. {self._way_back()}"
        if wrong := state.trainer.in_a_row:
            return f"The last {count(wrong, 'step')} had no finite loss or gradient. {self._way_back()}"
        return super().advice(state)

    def due(self, step: int) -> bool:
        asked = (self.options.grid_every, self.options.fd_every)
        first = step - 1 in self.starts or step in self.starts  # of a stage, and before it, so that no mean is of two
        return first or self.curves.due(step) or any(n and step % n == 0 for n in asked) or super().due(step)

    def begin(self, step: int) -> None:
        super().begin(step)
        self.table = Log(self.folder.path / LOG, step)

    def states(self, due: Callable[[int], bool], resume: Snapshot | None) -> Iterator[TrainState]:
        own = {"model": self.model, "teacher": self.teacher, "data": self.data}
        how = {"compile": self.options.compile, "max_skipped": self.options.max_skipped, "processes": self.processes}
        made = presets.run(self.preset, due, self.device, **own, **how, resume=resume)
        if not (self.options.tensorboard and self.processes.is_main_process):
            return made
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError("--tensorboard needs the package: pip install tensorboard, or leave it out") from error
        # What a killed run logged after its last state is logged again.
        return self._logged(made, SummaryWriter(str(self.folder.path), purge_step=resume.facts["step"] + 1 if resume else None))

    def _logged(self, states: Iterator[TrainState], writer: Any) -> Iterator[TrainState]:
        with writer as self.log:
            for state in states:
                for key in ("loss", "images_per_s", "skipped"):
                    self.log.add_scalar(key, getattr(state, key), state.step)
                yield state

    def look_at(self, state: TrainState) -> dict[str, str]:
        self.curves.see(state.step, state.loss, state.skipped, state.trainer.stage)
        times = self.curves.astray(state.loss)
        if times and not self.astray and self.processes.is_main_process:
            text = f"step {state.step}: the loss is {times:.0f} times what it was at first; no state is saved while it is so"
            tqdm.write(text, file=sys.stderr)
        self.astray = times > 0
        grid, fd = (n > 0 and state.step % n == 0 for n in (self.options.grid_every, self.options.fd_every))
        model = state.trainer.whole(state.ema) if grid or fd else None
        measured = None
        if self.processes.is_main_process and model is not None:
            model = self._finished(model).to(self.device)
            if grid:
                self._draw(state.step, model)
            measured = self._measure(state.step, model) if fd else None
        if self.processes.is_main_process:
            lr = state.trainer.optimizer.param_groups[0]["lr"]
            self.table.add(state.step, state.loss, lr, state.images_per_s, state.skipped, measured)
        numbers = {"loss": f"{state.loss:.4g}", "per_s": f"{state.images_per_s:.0f}"}
        return numbers | ({"skipped": str(state.skipped)} if state.skipped else {})

    def _finished(self, ema: nn.Module) -> Denoiser:
        """An average of the weights, guided as the preset says."""
        made = cast(Denoiser, copy.copy(ema))
        made.guidance = self.preset.guidance
        return made

    def _plan(self, step: int, model: Denoiser) -> tuple[str, int]:
        """Sampler and number of steps for what the model is after ``step``."""
        usual = plan(model, about=self.preset.loss.sampled((step - 1) / self.preset.steps))
        return usual.sampler, usual.steps

    def _draw(self, step: int, model: Denoiser) -> None:
        """Samples from seeds that stay the same, as a picture."""
        from ..plots.figures import picture_of

        picture = len(model.shape) == 3
        n = GRID if picture else 16 * GRID
        label = classes_in_turn(model.classes, n, device=self.device)
        x = sample(model, model.shape, range(n), *self._plan(step, model), label=label, device=self.device).cpu()
        shown = picture_of(x, f"step {step}")
        write_png(self.folder.path / f"samples-{step:08d}.png", shown)
        if self.log and picture:
            self.log.add_image("samples", shown, step, dataformats="HWC")

    def _measure(self, step: int, model: Denoiser) -> float:
        from ..evaluation.report import quick_fd

        sampler, steps = self._plan(step, model)
        fd = quick_fd(model, self.preset.data_name, FD_SAMPLES, sampler=sampler, steps=steps)
        self.curves.measured(step, fd)
        if self.log:
            self.log.add_scalar("FD-cls", fd, step)
        tqdm.write(f"step {step}: FD-cls {fd:.4g} of {FD_SAMPLES} samples, {sampler} with {count(steps, 'step')}")
        return fd

    def facts(self) -> dict[str, Any]:
        return {"curves": asdict(self.curves)}

    def recall(self, facts: dict[str, Any]) -> None:
        if curves := facts.get("curves"):  # states of earlier versions have none
            self.curves = Curves(**curves | {"steps": self.preset.steps})

    def finish(self, state: TrainState) -> str:
        whole = [state.trainer.whole(ema) for ema in state.emas]
        if not self.processes.is_main_process:
            return ""
        averages = [self._finished(ema) for ema in whole]
        preset, seconds, model = self.preset, self.spent()["seconds"], averages[0]
        about: dict[str, Any] = {
            "preset": self.made_by,
            "data": preset.data_name,
            "seconds": round(seconds, 2),
            "command": command_line("train", *self.args),
            "device": str(self.device),
            "options": flatten(preset),
            "started": self.begun,
            **run_facts(preset, self.device),
        }
        about |= preset.loss.sampled((state.step - 1) / preset.steps)
        more = {
            "threads": self.options.threads * (self.device.type == "cpu"),
            "processes": self.processes.world_size if self.processes.world_size > 1 else 0,
            "history": self.history,
            "skipped": state.skipped,
            "class_names": list(getattr(self.data, "class_names", ())) if model.classes else (),
        }
        about |= {key: value for key, value in more.items() if value} | self.curves.about()
        for path, ema in zip(reversed(self.targets), reversed(averages), strict=True):  # the result last: it says "finished"
            checkpoints.save(path, ema, about, torch.float16 if preset.half else None)
        skipped = f", {state.skipped} steps skipped as not finite" if state.skipped else ""
        return f"{self.target}: {preset.steps} steps in {seconds:.0f} s, last loss {state.loss:.4g}{skipped}"


def _digest(name: str) -> str:
    """Of the teacher's file, so that a run does not continue with another one."""
    if name in ("", "oracle"):
        return name
    with presets.find(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_fd(data: str, shape: tuple[int, ...]) -> str:
    """What --fd-every measures on, in words where that has not seen the data; raises ValueError where there is nothing."""
    from ..evaluation.classifier import classifier_for, fitting, splits, way_without_inception

    if len(shape) != 3:
        raise ValueError(f"--fd-every measures pictures, {data} has points: leave it out; 'cmlab evaluate' measures them")
    if not (known := fitting(data)):
        raise ValueError(f"--fd-every measures on a classifier that ships; {way_without_inception(data)}: leave it out")
    if (theirs := splits(data)[0].data.shape) != shape:
        raise ValueError(f"--fd-every compares with {data} of shape {theirs}, this model makes {shape}: leave it out")
    unseen = known[0] != classifier_for(data)
    return f"FD-cls is on the classifier {known[0]}, which was not trained on {data}: for comparisons on it alone" if unseen else ""
