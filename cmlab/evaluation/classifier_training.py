"""Training of the classifiers whose features stand in for Inception's, in the loop of training/loop.py."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..base.device import machine
from ..base.own import command_line
from ..base.registry import CLASSIFIER_PRESETS
from ..base.rng import global_seed
from ..data import fingerprint
from ..networks.layers import orders_by_pixel
from ..training.loop import Run
from ..training.options import ClassifierOptions, at_least_one
from ..training.states import flatten
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
    model, device = _new(train, preset), torch.device(device)
    precision = usable_precision(preset.precision, device)
    whole = [(fit_channels(split.pixels(slice(None)), model.shape), cast(Tensor, split.label)) for split in train]
    model.train().prepare([pixels for pixels, _ in whole])
    order = torch.channels_last if orders_by_pixel(model, device) else torch.contiguous_format
    model.to(device).to(memory_format=order)  # pyright: ignore[reportCallIssue]
    optimizer, schedule = _optimizer(model, preset)
    fast = model.state_dict() if preset.optimizer == "sgd" else {}
    slow = {k: v.clone() for k, v in fast.items() if v.is_floating_point()}
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


def run(name: str, preset: ClassifierPreset, options: ClassifierOptions, device: torch.device, args: list[str]) -> None:
    """Train ``preset`` into ``options.out``/NAME.safetensors; see `Run`."""
    at_least_one(preset, ("steps", "batch"))
    if preset.steps < 2:
        raise ValueError("--steps must be at least 2: the learning rate rises, then falls")
    if preset.shift < 0 or not 0 <= preset.smoothing < 1:
        raise ValueError(f"--shift is at least 0 and --smoothing lies in [0, 1), got {preset.shift} and {preset.smoothing}")
    if not preset.data:
        raise ValueError("--data needs at least one data set")
    if not preset.network.channels or min(*preset.network.channels, preset.network.blocks) < 1:
        raise ValueError("--network.channels and --network.blocks are at least 1")
    _ClassifierRun(name, preset, options, device, args)()


class _ClassifierRun(Run):
    preset: ClassifierPreset
    next_command = "evaluate SOURCE --features {}"

    def header(self) -> dict[str, Any]:
        return load_classifier(self.target).about

    def load(self) -> dict[str, Any]:
        self.divided = {data: splits(data) for data in self.preset.data}
        self.images = [train for train, _, _ in self.divided.values()]
        _new(self.images, self.preset)  # raises, before anything is written, where there can be none
        return {"data": {data: fingerprint(train.data) for data, (train, _, _) in self.divided.items()}}

    def states(self, due: Callable[[int], bool], resume: Snapshot | None) -> Iterator[ClassifierState]:
        made = train_classifier(self.images, self.preset, resume=resume, device=self.device)
        return (state for state in made if state.step == self.preset.steps or due(state.step))

    def finish(self, state: ClassifierState) -> str:
        options = flatten(self.preset)
        about = {k: v for k, v in options.items() if not k.startswith("network")}
        about |= {k: round(v, 1) for k, v in self.spent().items()}
        about |= {"command": command_line("train", *self.args), "machine": machine(self.device), "device": str(self.device)}
        about |= {"threads": self.options.threads, "preset": self.made_by, "options": options, "started": self.begun}
        about["class_names"] = list(self.images[0].data.class_names)
        model = state.model.cpu()
        stored = rounded(model)  # to half precision, as it is written: its accuracy is the one that counts
        about["accuracy"] = {data: round(accuracy(stored, test), 4) for data, (_, test, _) in self.divided.items()}
        save_classifier(self.target, model, about)
        known = ", ".join(f"{share:.2%} of held-out {data}" for data, share in about["accuracy"].items())
        return f"{self.target}: {known}, {self.target.stat().st_size / 1e3:.0f} kB, {about['seconds']:.0f} s"


CLASSIFIER_PRESETS.register("digits-classifier")(ClassifierPreset(("digits", "digits-color"), ClassifierConfig((24, 48), 1), 1500))
CLASSIFIER_PRESETS.register("cifar10-classifier")(
    ClassifierPreset(
        ("cifar10",), ClassifierConfig((32, 64, 128, 256), 1), 12_000, shift=4, flip=True, smoothing=0.1, precision="auto"
    )
)
CLASSIFIER_PRESETS.register("cifar10-fast-classifier")(
    ClassifierPreset(
        ("cifar10",), ClassifierConfig((32, 128, 256), kind="fast"), 1074, 512, "sgd", 0.75, 0.002 / 1.5, shift=2, flip=True,
        smoothing=0.2, precision="auto",
    )
)  # fmt: skip

CLASSIFIER_PRESETS.register("mnist-classifier")(
    ClassifierPreset(("mnist",), ClassifierConfig((24, 48, 96), 1), 4000, shift=2, smoothing=0.1, precision="auto")
)
CLASSIFIER_PRESETS.register("mnist-fast-classifier")(
    ClassifierPreset(
        ("mnist",), ClassifierConfig((24, 64, 128), kind="fast"), 1000, 512, "sgd", 0.75, 0.002 / 1.5, shift=2, smoothing=0.2,
        precision="auto",
    )
)  # fmt: skip
