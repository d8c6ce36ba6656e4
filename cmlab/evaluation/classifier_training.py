"""Training of the classifiers whose features stand in for Inception's: ``cmlab train cifar10-classifier``.

A run stops, saves and continues to the same bits as those of the generative models do (session.py), with states of the same kind.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import __version__
from ..base.suggest import unknown
from ..commands.common import machine
from ..data import fingerprint
from ..formats.checkpoints import CheckpointError
from ..networks.layers import orders_by_pixel
from ..noise import global_seed
from ..training.session import TELL, Stop, choose_precision, stopped, where_to_start
from ..training.states import RunFolder, check_finished, check_unchanged, flatten, read_state, resumed
from ..training.trainer import Snapshot, usable_precision
from .classifier import (
    Classifier,
    ClassifierConfig,
    Split,
    accuracy,
    build_classifier,
    fit_channels,
    load_classifier,
    rounded,
    save_classifier,
    splits,
)

LOOK = 50  # steps between looks at the clock and at signals
_LOOKAHEAD = 5  # steps between two pulls to the slow average


@dataclass(frozen=True)
class ClassifierPreset:
    """How a classifier is trained.

    Args:
        data: names of data sets, or paths of their files; batches come from each in turn.
        network: its size.
        steps: optimizer steps.
        batch: images per step.
        optimizer: "adamw", on images drawn anew for each batch; or "sgd" with Nesterov's momentum, on every image once an epoch,
            with the weights drawn back to where they were a few steps ago (Lookahead, Zhang et al., 2019).
        lr: largest learning rate. AdamW's rises for a tenth of the steps and falls to 0 as a cosine, SGD's rises for a fourth and
            falls in a line to a thirtieth. SGD moves what is no matrix eight times as fast.
        weight_decay: of the matrices.
        shift: pixels by which images are moved at random.
        flip: mirror half of the images; with "sgd" the other half in the next epoch.
        smoothing: share of each label that all classes get.
        precision: in what the network computes; weights are float32. "auto" is bf16 where the device computes in it.
        seed: fixes the initial weights and every draw.
    """

    data: tuple[str, ...]
    network: ClassifierConfig
    steps: int
    batch: int = 128
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = 3e-3
    weight_decay: float = 0.05
    shift: int = 1
    flip: bool = False
    smoothing: float = 0.0
    precision: Literal["float32", "bf16", "auto"] = "float32"
    seed: int = 0


@dataclass(frozen=True)
class ClassifierOptions:
    """Train a classifier and write runs/NAME.safetensors, for 'cmlab evaluate --features runs/NAME.safetensors'.

    Args:
        out: folder for the classifier, and for a folder NAME with the states of a run that is not finished.
        overwrite: replace a classifier of the same name, or the states of an unfinished run.
        resume: continue an unfinished run, to the same bits on a CPU with as many threads; where there is none, begin.
        save_minutes: save the state when so many minutes have passed; 0 for never. SIGTERM and Ctrl-C always save it.
        keep: number of states that are kept.
        device: "auto" takes a GPU where there is one.
        threads: CPU threads.
    """

    out: Path = Path("runs")
    overwrite: bool = False
    resume: bool = False
    save_minutes: float = 10.0
    keep: int = 2
    device: str = "auto"
    threads: int = 1


class ClassifierState(NamedTuple):
    """What `train_classifier` yields after ``step`` steps: ``loss`` of the last one; live objects, that the next step changes."""

    step: int
    loss: float
    model: Classifier
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    generator: torch.Generator
    slow: dict[str, Tensor]

    def snapshot(self) -> Snapshot:
        """All that `train_classifier` needs to continue from here to the same bits (``resume=``)."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()} | {"generator": self.generator.get_state()}
        tensors |= {f"slow.{k}": v for k, v in self.slow.items()}
        for name, p in self._learned():
            tensors |= {f"optimizer.{name}.{k}": v for k, v in self.optimizer.state[p].items()}
        return Snapshot(tensors, {"step": self.step, "loss": self.loss, "schedule": self.schedule.state_dict()})

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to where ``snapshot`` was taken."""
        tensors, facts = snapshot
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        self.generator.set_state(tensors["generator"])
        for k, v in self.slow.items():
            v.copy_(tensors[f"slow.{k}"])
        for name, p in self._learned():
            mine = f"optimizer.{name}."
            state = {k.removeprefix(mine): v for k, v in tensors.items() if k.startswith(mine)}
            # torch keeps the moments where the weights are and in their order, the count of steps on the CPU.
            self.optimizer.state[p] = {k: v if v.ndim == 0 else torch.empty_like(p).copy_(v) for k, v in state.items()}
        self.schedule.load_state_dict(facts["schedule"])
        for group, lr in zip(self.optimizer.param_groups, facts["schedule"]["_last_lr"], strict=True):
            group["lr"] = lr

    def _learned(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((name, p) for name, p in self.model.named_parameters() if p.requires_grad)


def _shifted(pixels: Tensor, generator: torch.Generator, reach: int, flip: bool | Tensor) -> Tensor:
    """Each image moved by up to ``reach`` pixels, its edge repeated, and mirrored where ``flip`` (n,) says so, or half of them."""
    n, _, h, w = pixels.shape
    padded = F.pad(pixels.float(), [reach] * 4, mode="replicate")
    dy, dx = torch.randint(2 * reach + 1, (2, n, 1), generator=generator)
    rows, columns = (torch.arange(h) + dy)[:, None, :, None], (torch.arange(w) + dx)[:, None, None, :]
    out = padded[torch.arange(n)[:, None, None, None], torch.arange(pixels.shape[1])[:, None, None], rows, columns]
    if flip is not False:
        mirrored = torch.rand(n, generator=generator) < 0.5 if flip is True else flip
        out[mirrored] = out[mirrored].flip(3)
    return out


def _optimizer(model: Classifier, preset: ClassifierPreset) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.OneCycleLR]:
    learned = [p for p in model.parameters() if p.requires_grad]
    matrices, others = [p for p in learned if p.ndim > 1], [p for p in learned if p.ndim < 2]
    total, lr = preset.steps, preset.lr
    if preset.optimizer == "sgd":
        quick = {"params": others, "lr": 8 * lr, "weight_decay": preset.weight_decay / 8}
        groups = [{"params": matrices, "weight_decay": preset.weight_decay}, quick]
        sgd = torch.optim.SGD(groups, lr, momentum=0.85, nesterov=True)
        rising = max(0.23, 1.5 / total)  # torch divides by the length of the rise, total * rising - 1, and of the fall
        return sgd, torch.optim.lr_scheduler.OneCycleLR(
            sgd, [lr, 8 * lr], total, pct_start=rising, anneal_strategy="linear", cycle_momentum=False,
            div_factor=5, final_div_factor=20 / 3,
        )  # fmt: skip
    groups = [{"params": matrices, "weight_decay": preset.weight_decay}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr)
    rising = 0.2 if total == 10 else 0.1  # a tenth of 10 steps would be a rise of no length, by which torch divides
    return adamw, torch.optim.lr_scheduler.OneCycleLR(adamw, lr, total_steps=total, pct_start=rising, cycle_momentum=False)


class _Epochs:
    """Every image once an epoch, in an order that the seed and the epoch decide; mirrored every second time, half of them first."""

    def __init__(self, preset: ClassifierPreset, n: int):
        self.batch, self.seed, self.n = min(preset.batch, n), preset.seed, n
        self.first = torch.rand(n, generator=torch.Generator().manual_seed(preset.seed)) < 0.5
        self.epoch, self.order = -1, torch.arange(n)

    def __call__(self, k: int) -> tuple[Tensor, Tensor]:
        """Which images the k-th batch has, and which of them are mirrored: two (batch,)."""
        epoch, place = divmod(k, self.n // self.batch)
        if epoch != self.epoch:
            self.epoch = epoch
            self.order = torch.randperm(self.n, generator=torch.Generator().manual_seed(self.seed * 0x9E3779B1 + epoch + 1))
        pick = self.order[place * self.batch : (place + 1) * self.batch]
        return pick, self.first[pick] ^ (epoch % 2 == 1)


@torch.no_grad()
def _look_ahead(model: Classifier, slow: dict[str, Tensor], progress: float) -> None:
    """Draw the weights back to their slow average, which follows them at first at once, at last in a hundred steps."""
    decay = 0.95**_LOOKAHEAD * progress**3
    for name, value in model.state_dict().items():
        if name in slow:
            value.copy_(slow[name].lerp_(value, 1 - decay))


def train_classifier(
    train: list[Split], preset: ClassifierPreset, *, resume: Snapshot | None = None, device: torch.device | str = "cpu"
) -> Iterator[ClassifierState]:
    """Train a classifier on ``train``, the training images of ``preset.data``; yields after every step.

    Grey sets are trained on with three equal channels when another set has colours. Raises ValueError for sets without classes
    or of different ones.
    """
    model = _new(train, preset)
    shape, device = model.shape, torch.device(device)
    precision = usable_precision(preset.precision, device)
    whole = [(fit_channels(split.pixels(slice(None)), shape), cast(Tensor, split.label)) for split in train]
    model.train().prepare([pixels for pixels, _ in whole])
    order = torch.channels_last if orders_by_pixel(model, device) else torch.contiguous_format
    model.to(device).to(memory_format=order)  # pyright: ignore[reportCallIssue]
    optimizer, schedule = _optimizer(model, preset)
    slow = {}
    if preset.optimizer == "sgd":
        slow = {k: v.clone() for k, v in model.state_dict().items() if v.is_floating_point()}
    epochs = [_Epochs(preset, len(pixels)) for pixels, _ in whole]
    state = partial(ClassifierState, model=model, optimizer=optimizer, schedule=schedule, slow=slow)
    generator = torch.Generator().manual_seed(preset.seed)
    if resume is not None:
        state(0, 0.0, generator=generator).restore(resume)
    if resume is not None and resume.facts["step"] == preset.steps:
        yield state(preset.steps, resume.facts["loss"], generator=generator)
    for step in range(resume.facts["step"] if resume else 0, preset.steps):
        which = step % len(whole)
        pixels, label = whole[which]
        if preset.optimizer == "sgd":
            pick, mirrored = epochs[which](step // len(whole))
        else:
            pick, mirrored = torch.randint(len(pixels), (preset.batch,), generator=generator), True
        moved = _shifted(pixels[pick], generator, preset.shift, mirrored if preset.flip else False).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(moved.contiguous(memory_format=order))[1]
        loss = F.cross_entropy(logits.float(), label[pick].to(device), label_smoothing=preset.smoothing)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if slow and (step + 1) % _LOOKAHEAD == 0:
            _look_ahead(model, slow, step / preset.steps)
        yield state(step + 1, float(loss.detach()), generator=generator)
    model.eval()


def _new(train: list[Split], preset: ClassifierPreset) -> Classifier:
    for name, split in zip(preset.data, train, strict=True):
        if split.label is None or split.data.class_names != train[0].data.class_names:
            raise ValueError(f"{name} has not the classes of {preset.data[0]}: a classifier needs images of the same classes")
    shape = max((split.data.shape for split in train), key=lambda s: s[0])
    with global_seed(preset.seed):
        return build_classifier(preset.network, shape, train[0].data.classes)


# --- the command -----------------------------------------------------------------------------------------------------------


def run(name: str, preset: ClassifierPreset, o: ClassifierOptions, words: list[str], device: torch.device) -> None:
    """Train ``preset`` into ``o.out``/NAME.safetensors. ``words``: the command line's after 'cmlab train'."""
    _check(preset, o)
    target, folder = o.out / f"{name}.safetensors", RunFolder(o.out / name, o.keep)
    with folder.locked():
        start = where_to_start(folder, [target], o.resume, o.overwrite)
        if start == "finished":
            check_finished(load_classifier(target).about, name, preset, target)
            print(f"{target}: this run is finished. Next: cmlab evaluate SOURCE --features {target}")
            return
        _run(name, preset, o, words, device, target, folder, start)


def _run(
    name: str,
    preset: ClassifierPreset,
    o: ClassifierOptions,
    words: list[str],
    device: torch.device,
    target: Path,
    folder: RunFolder,
    start: str,
) -> None:
    from tqdm import tqdm

    resume, spent = None, {"seconds": 0.0, "cpu_seconds": 0.0}
    divided = {data: splits(data) for data in preset.data}
    _new([train for train, _, _ in divided.values()], preset)  # raises, before anything is written, where there can be none
    seen = {data: fingerprint(train.data) for data, (train, _, _) in divided.items()}
    if start:
        resume = read_state(Path(start))
        saved = resume.facts["preset"]
        check_unchanged(saved, now := resumed(flatten(preset), saved), Path(start))
        preset = replace(preset, precision=now["precision"])
        if resume.facts.get("data", seen) != seen:
            raise CheckpointError(f"{start} was saved with other images: give the same --data, or pass --overwrite to start anew")
        spent = resume.facts["spent"]
        print(f"continuing at step {resume.facts['step']} of {preset.steps}, from {start}", flush=True)
    else:
        folder.clear()
    preset = replace(preset, precision=cast(Any, choose_precision(preset.precision, device, True)))
    torch.set_num_threads(o.threads)
    clock, work = time.perf_counter(), time.process_time()

    def so_far() -> dict[str, float]:
        now = {"seconds": time.perf_counter() - clock, "cpu_seconds": time.process_time() - work}
        return {k: spent[k] + v for k, v in now.items()}

    state, saved_at, told = None, time.monotonic(), time.monotonic()
    first = resume.facts["step"] if resume else 0
    with Stop().watching() as stop, tqdm(total=preset.steps, initial=first, unit="step", desc=name, disable=None) as bar:
        for state in train_classifier([train for train, _, _ in divided.values()], preset, resume=resume, device=device):
            last = state.step == preset.steps
            if state.step % LOOK and not last and not stop.number:
                continue
            bar.update(state.step - bar.n)
            bar.set_postfix(loss=f"{state.loss:.4f}")
            if bar.disable and time.monotonic() - told > TELL:
                told = time.monotonic()
                print(f"{name}: step {state.step} of {preset.steps}, loss {state.loss:.4f}", flush=True)
            late = o.save_minutes > 0 and time.monotonic() - saved_at > 60 * o.save_minutes
            if last or stop.number or late:
                tensors, facts = state.snapshot()
                facts |= {"preset": flatten(preset), "spent": so_far(), "cmlab": __version__, "data": seen}
                try:
                    folder.save(Snapshot(tensors, facts))
                except CheckpointError as error:
                    if not last:
                        raise
                    print(f"cmlab: {error}", file=sys.stderr)  # the result is smaller, and what counts
                saved_at = time.monotonic()
            if stop.number and not last:
                raise stopped(stop.number, state.step, preset.steps, folder, words)
    assert state is not None
    facts = {k: v for k, v in flatten(preset).items() if not k.startswith("network")}
    about = facts | {k: round(v, 1) for k, v in so_far().items()}
    about |= {"command": " ".join(["cmlab train", *words]), "machine": machine(device), "device": str(device), "threads": o.threads}
    about |= {"preset": name, "options": flatten(preset)}
    about["class_names"] = list(next(iter(divided.values()))[0].data.class_names)
    model = state.model.cpu()
    stored = rounded(model)  # to half precision, as it is written: its accuracy is the one that counts
    about["accuracy"] = {data: round(accuracy(stored, test), 4) for data, (_, test, _) in divided.items()}
    save_classifier(target, model, about)
    folder.clear()
    known = ", ".join(f"{share:.2%} of held-out {data}" for data, share in about["accuracy"].items())
    print(
        f"{target}: {known}, {target.stat().st_size / 1e3:.0f} kB, {about['seconds']:.0f} s. "
        f"Next: cmlab evaluate SOURCE --features {target}"
    )


def _check(preset: ClassifierPreset, o: ClassifierOptions) -> None:
    for where in (preset, o):
        for field in ("steps", "batch", "keep", "threads"):
            if getattr(where, field, 1) < 1:
                raise ValueError(f"--{field} must be at least 1, got {getattr(where, field)}")
    if preset.steps < 2:
        raise ValueError("--steps must be at least 2: the learning rate rises, then falls")
    if preset.shift < 0 or not 0 <= preset.smoothing < 1 or o.save_minutes < 0:
        raise ValueError(
            f"--shift and --save-minutes are at least 0 and --smoothing lies in [0, 1), got {preset.shift}, {o.save_minutes} "
            f"and {preset.smoothing}"
        )
    if not preset.data:
        raise ValueError("--data needs at least one data set")
    if not preset.network.channels or min(*preset.network.channels, preset.network.blocks) < 1:
        raise ValueError("--network.channels and --network.blocks are at least 1")
    if o.resume and o.overwrite:
        raise ValueError("--resume continues a run and --overwrite starts it anew: choose one")


CLASSIFIER_PRESETS = {
    "digits-classifier": ClassifierPreset(("digits", "digits-color"), ClassifierConfig((24, 48), 1), 1500),
    "cifar10-classifier": ClassifierPreset(
        ("cifar10",), ClassifierConfig((32, 64, 128, 256), 1), 12_000, shift=4, flip=True, smoothing=0.1, precision="auto"
    ),
    "cifar10-fast-classifier": ClassifierPreset(
        ("cifar10",), ClassifierConfig((32, 128, 256), kind="fast"), 1074, 512, "sgd", 0.75, 0.002 / 1.5, shift=2, flip=True,
        smoothing=0.2, precision="auto",
    ),
}  # fmt: skip


def get_classifier_preset(name: str) -> ClassifierPreset:
    """The preset ``name``; raises ValueError with the nearest name for an unknown one."""
    if name not in CLASSIFIER_PRESETS:
        raise ValueError(unknown("classifier preset", name, CLASSIFIER_PRESETS))
    return CLASSIFIER_PRESETS[name]
