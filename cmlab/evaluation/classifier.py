"""Small image classifiers whose features stand in for Inception's where that cannot be had.

A distance on them is called FD-cls, never FID: it compares samples of one data set with each other, and with no published figure.
Their training is in classifier_training.py.
"""

import copy
import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..base.files import SUFFIX, own_file, user_path, write_whole
from ..base.rng import global_seed
from ..base.suggest import check_choice
from ..data import ImageData, PixelData, held_out, keep_classes, kept_rows, load_images
from ..data.names import split_name
from ..data.pixels import from_pixels, to_pixels
from ..data.sets import NoSplit
from ..formats import header
from ..formats.checkpoints import one_line, skeleton

PRETRAINED = Path(__file__).parents[1] / "pretrained" / "features"


@dataclass(frozen=True)
class ClassifierConfig:
    """The size and kind of a classifier.

    Args:
        channels: of each stage; the resolution is halved from stage to stage.
        blocks: residual blocks in each stage; of the kind "residual" alone.
        kind: "residual", pre-activation blocks (He et al., 2016); or "fast", a whitening filter and max-pooled stages of two
            convolutions (after Page's DAWNBench entry and Jordan's airbench, arXiv 2404.00498, here with narrow stages). Seconds
            and accuracies of both: pretrained/features/README.md.
    """

    channels: tuple[int, ...] = (24, 48)
    blocks: int = 1
    kind: Literal["residual", "fast"] = "residual"


class Classifier(nn.Module, ABC):
    """uint8 images (B, C, H, W) to features (B, d) and logits (B, classes).

    The features are the means over the picture of every stage, for the last alone forgets what tells no class (colour, texture).
    """

    def __init__(self, config: ClassifierConfig, shape: tuple[int, ...], classes: int):
        super().__init__()
        self.config, self.shape, self.classes = config, tuple(shape), classes

    def prepare(self, sets: Sequence[Tensor]) -> None:
        """Before training: set the weights that no gradient changes, from the training sets, uint8 images (n, C, H, W)."""

    @abstractmethod
    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Features and logits."""


class _Block(nn.Module):
    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(c_in), nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(c_out), nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
        same = c_in == c_out and stride == 1
        self.skip = nn.Identity() if same else nn.Conv2d(c_in, c_out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(x))
        return self.skip(h if isinstance(self.skip, nn.Conv2d) else x) + self.conv2(F.relu(self.norm2(self.conv1(h))))


class ResidualClassifier(Classifier):
    """3x3 convolutions in residual blocks, all of whose weights are learned."""

    def __init__(self, config: ClassifierConfig, shape: tuple[int, ...], classes: int):
        super().__init__(config, shape, classes)
        self.stem = nn.Conv2d(shape[0], config.channels[0], 3, 1, 1, bias=False)
        widths = [config.channels[0], *config.channels]
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Block(a if k == 0 else b, b, 2 if k == 0 and i > 0 else 1) for k in range(config.blocks)))
            for i, (a, b) in enumerate(zip(widths, config.channels, strict=False))
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in config.channels)
        self.head = nn.Linear(config.channels[-1], classes)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(from_pixels(pixels))
        pooled = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            pooled.append(F.relu(norm(x)).mean((2, 3)))
        return torch.cat(pooled, 1), self.head(pooled[-1])


class _Stage(nn.Module):
    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(c, c_out, 3, 1, 1, bias=False) for c in (c_in, c_out))
        self.norm1, self.norm2 = (nn.BatchNorm2d(c_out, momentum=0.4) for _ in range(2))
        for norm, conv in ((self.norm1, self.conv1), (self.norm2, self.conv2)):
            norm.weight.requires_grad_(False)
            nn.init.dirac_(conv.weight.data[: conv.in_channels])  # at first a stage passes on what it is given

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        return F.gelu(self.norm2(self.conv2(x)))


class FastClassifier(Classifier):
    """Normalised pixels, a fixed filter that whitens 2x2 patches, stages that pool after their first convolution."""

    def __init__(self, config: ClassifierConfig, shape: tuple[int, ...], classes: int):
        super().__init__(config, shape, classes)
        if config.blocks != 1:
            raise ValueError("--network.blocks belongs to the kind residual; fast does not use it")
        if min(shape[1:]) - 1 < 2 ** len(config.channels):
            stages = f"{len(config.channels)} stages halve {shape[1]} x {shape[2]} pixels to nothing"
            raise ValueError(f"{stages}: take fewer --network.channels")
        self.mean, self.std = (nn.Buffer(torch.full((shape[0],), value)) for value in (0.0, 1.0))
        patch = 4 * shape[0]
        self.whiten = nn.Conv2d(shape[0], 2 * patch, 2, bias=False).requires_grad_(False)
        self.stages = nn.ModuleList(_Stage(a, b) for a, b in pairwise((2 * patch, *config.channels)))
        self.head = nn.Linear(config.channels[-1], classes, bias=False)

    @torch.no_grad()
    def prepare(self, sets: Sequence[Tensor]) -> None:
        pixels = torch.cat(list(sets))
        self.std[:], self.mean[:] = torch.std_mean(pixels.float(), (0, 2, 3))
        some = pixels[torch.arange(min(len(pixels), 5000)) * len(pixels) // min(len(pixels), 5000)]
        patches = F.unfold(self._normalised(some), 2).transpose(1, 2).flatten(0, 1)
        values, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        rows = (directions / (values + 5e-4).sqrt()).T.flip(0)  # the directions of largest variance first
        self.whiten.weight[:] = torch.cat([rows, -rows]).reshape(self.whiten.weight.shape)

    def _normalised(self, pixels: Tensor) -> Tensor:
        return (pixels.float() - self.mean[:, None, None]) / self.std[:, None, None].clamp_min(1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        x = F.gelu(self.whiten(self._normalised(pixels)))
        pooled = []
        for stage in self.stages:
            x = stage(x)
            pooled.append(x.mean((2, 3)))
        return torch.cat(pooled, 1), self.head(x.amax((2, 3))) / 9


KINDS: dict[str, type[Classifier]] = {"residual": ResidualClassifier, "fast": FastClassifier}


def build_classifier(config: ClassifierConfig, shape: tuple[int, ...], classes: int) -> Classifier:
    """A new classifier of images of ``shape`` (C, H, W); raises ValueError for an unknown kind."""
    check_choice("kind of classifier", config.kind, KINDS)
    return KINDS[config.kind](config, shape, classes)


# --- splits ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Split:
    """Some images of a set: ``index`` (n,) into ``data``."""

    data: ImageData | PixelData
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    @property
    def label(self) -> Tensor | None:
        return None if self.data.label is None else self.data.label[self.index]

    def pixels(self, rows: slice) -> Tensor:
        """Those images of the split as uint8 (n, C, H, W)."""
        return to_pixels(self.data.take(self.index[rows]))

    def batches(self, batch: int) -> Iterator[Tensor]:
        """All of them, batch by batch."""
        return (self.pixels(slice(k, k + batch)) for k in range(0, len(self), batch))


def splits(name: str | Path) -> tuple[Split, Split, str]:
    """Train and test images of a set, and how they were divided: its own split, the digits by scan, other sets in random halves.

    A set of some classes of another (see `data.keep_classes`) is divided as the whole is.
    """
    whole, kept = split_name(name)
    if kept is not None:
        train, test, how = splits(whole)
        return _only(train, kept, whole), _only(test, kept, whole), how
    if name in ("digits", "digits-color"):
        data = load_images(name)
        test = held_out(scans := len(load_images("digits").x0)).repeat(len(data) // scans)  # all colourings on the same side
        return Split(data, (~test).nonzero()[:, 0]), Split(data, test.nonzero()[:, 0]), "two thirds of the scans, the other third"
    train = load_images(name)
    try:
        test = load_images(name, split="test")
    except NoSplit:
        halves = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tensor_split(2)
        return Split(train, halves[1].sort().values), Split(train, halves[0].sort().values), "one random half, the other"
    return Split(train, torch.arange(len(train))), Split(test, torch.arange(len(test))), "train, test"


def _only(split: Split, names: tuple[str, ...], what: str) -> Split:
    data = keep_classes(split.data, names, what)
    place = torch.full((len(split.data),), -1)  # of each image of the whole among those that are kept
    place[kept_rows(split.data, names)] = torch.arange(len(data))
    index = place[split.index]
    return Split(data, index[index >= 0])


# --- use -----------------------------------------------------------------------------------------------------------------


def fit_channels(pixels: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Grey images with three equal channels where ``shape`` has three; raises ValueError for images of another shape."""
    if pixels.shape[1] == 1 and shape[0] == 3:
        pixels = pixels.expand(-1, 3, -1, -1)
    if (found := tuple(pixels.shape[1:])) != shape:
        raise ValueError(f"the classifier's images have the shape {shape}, these {found}: choose --features inception")
    return pixels


@torch.no_grad()
def accuracy(model: Classifier, split: Split) -> float:
    """Share of the split's images that are put into their class."""
    assert split.label is not None
    parts = [model(fit_channels(pixels, model.shape))[1].argmax(1) for pixels in split.batches(1000)]
    return float((torch.cat(parts) == split.label).double().mean())


# --- files -----------------------------------------------------------------------------------------------------------------


def save_classifier(path: str | Path, model: Classifier, about: dict[str, Any]) -> Path:
    """Write a classifier with its matrices in half precision, beside the file first, then renamed."""
    state = _halved(model)
    meta = {"config": asdict(model.config), "shape": list(model.shape), "classes": model.classes, "about": about}
    return write_whole(path, save({k: v.contiguous() for k, v in state.items()}, metadata={"cmlab-classifier": json.dumps(meta)}))


def _halved(model: Classifier) -> dict[str, Tensor]:
    return {k: v.half() if v.ndim > 1 else v for k, v in model.state_dict().items() if v.is_floating_point()}


def rounded(model: Classifier) -> Classifier:
    """A copy of ``model`` as `load_classifier` gives it back once saved: in eval mode, matrices rounded to half precision."""
    out = copy.deepcopy(model).eval().requires_grad_(False)
    out.load_state_dict(out.state_dict() | {k: v.float() for k, v in _halved(model).items()})
    return out


@dataclass(frozen=True, eq=False)
class LoadedClassifier:
    """A classifier in eval mode, what it says about itself, and an id that changes with every bit of its file."""

    model: Classifier
    about: dict[str, Any]
    id: str

    def numbers(self, class_names: Sequence[str]) -> Tensor | None:
        """What it calls the classes ``class_names`` of a data set, (classes,) int64; None where it does not know one of them.

        A classifier whose ``about`` has no ``class_names`` calls as many classes what the data call them.
        """
        known = self.about.get("class_names")
        if known is None:
            return torch.arange(len(class_names)) if len(class_names) == self.model.classes else None
        return torch.tensor([known.index(name) for name in class_names]) if set(class_names) <= set(known) else None


def load_classifier(path: str | Path) -> LoadedClassifier:
    """A classifier's file, float32 and in eval mode; raises ValueError for one that is missing, damaged or of another kind."""
    path = user_path(path)
    if not path.is_file():
        raise ValueError(f"no classifier at {path}: take one of {', '.join(classifier_names())}, or inception")
    return _load(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _load(path: Path, _stamp: int) -> LoadedClassifier:

    try:
        text = header.read_text(path, "cmlab-classifier")
        if text is None:
            raise ValueError("it says nothing of one")
        header.check(text, header.ClassifierHeader)
        meta = header.parse(text)
        config = header.make(ClassifierConfig, meta["config"])
        weights = {k: v.float() for k, v in load_file(path).items()}
        with skeleton(weights):
            build_classifier(config, tuple(meta["shape"]), meta["classes"])
        with global_seed(0):
            model = build_classifier(config, tuple(meta["shape"]), meta["classes"])
        counters = {k: v for k, v in model.state_dict().items() if not v.is_floating_point()}
        model.load_state_dict({**weights, **counters})
        if len(set(meta["about"].get("class_names", range(model.classes)))) != model.classes:
            raise ValueError(f"it names other than its {model.classes} classes")
    except (SafetensorError, OSError, LookupError, ArithmeticError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} is no classifier of cmlab: {one_line(error)}") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return LoadedClassifier(model.eval().requires_grad_(False), meta["about"], f"{path.stem}-{digest}")


def classifier_names() -> list[str]:
    """Names of the classifiers that ship with the package."""
    return sorted(p.stem for p in PRETRAINED.glob("*" + SUFFIX))


# Which classifier knows which data set.
CLASSIFIERS = {"digits": "digits", "digits-color": "digits", "cifar10": "cifar10", "mnist": "mnist"}


def classifier_for(data: str) -> str | None:
    """The name of the shipped classifier that knows the data set ``data``, or the set that ``data`` is some classes of, or None."""
    name = CLASSIFIERS.get(split_name(data)[0])
    return name if name in classifier_names() else None


def need_classifier(data: str, way_out: str) -> str:
    """As `classifier_for`; raises ValueError, which ends with ``way_out``, where there is none."""
    if (name := classifier_for(data)) is None:
        raise ValueError(f"no classifier that knows {data} ships ({', '.join(classifier_names())}): {way_out}")
    return name


def fitting(data: str) -> list[str]:
    """The shipped classifiers that take pictures of the shape of ``data``, first one that knows them."""
    shape, own = splits(data)[0].data.shape, classifier_for(data)
    fit = [name for name, (channels, *side) in _shapes().items() if side == [*shape[1:]] and channels in (shape[0], 3)]
    return sorted(fit, key=lambda name: name != own)


def _shapes() -> dict[str, tuple[int, ...]]:
    return {name: load_classifier(resolve_classifier(name)).model.shape for name in classifier_names()}


def way_without_inception(data: str) -> str:
    """What to choose where Inception is not there, or no classifier knows ``data``."""
    if not (known := fitting(data)):
        shapes = ", ".join(map(str, sorted({*_shapes().values()})))
        return f"none that ships takes its pictures, only those of the shapes {shapes}"
    unseen = "" if known[0] == classifier_for(data) else f" it was not trained on {data};"
    return f"--features {known[0]} needs no network:{unseen} its figures compare models of {data} with each other and are no FID"


def resolve_classifier(name: str) -> Path:
    """The file of a shipped classifier, or of another by its path or from ``runs/``, where 'cmlab train' puts it.

    The shipped one comes first: FD-cls on the classifier "cifar10" is on the same one everywhere.
    """
    bundled = PRETRAINED / f"{name}{SUFFIX}"
    return bundled if bundled.is_file() else own_file(name) or Path(name)
