"""Data sets: exact 2D mixtures, points that a user draws, handwritten digits, and images from files.

Every 2D set *is* a Gaussian mixture with standard deviation 0.5 per coordinate, so its score, its PF-ODE and its consistency
function are known exactly.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from ..base.files import user_path
from ..base.suggest import unknown
from ..noise import SIGMA_DATA, Draws, as_draws
from ..oracle import GaussianMixture
from .cifar10 import data_folder, is_cifar10, load_cifar10
from .names import DIGIT_NAMES, FOLDERS, split_name, split_side
from .pictures import SUFFIXES, Labels, NoSplit, PixelData, Resize, SomePixels, load_npz, load_pictures, random_flip

EXAMPLES = (
    Path(__file__).parents[1] / "pretrained" / "examples"
)  # has a folder of pictures, in folders of their classes, for cifar10


class Data(Protocol):
    """What training asks of a data set."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape S of one sample."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes, 0 for none."""
        ...

    def batch(self, n: int, source: "Draws | torch.Generator | Sequence[int]") -> tuple[Tensor, Tensor | None]:
        """``n`` samples (n, *S) float32 (plane: standard deviation 0.5; images: in [-1, 1]) and labels (n,) or None."""
        ...


@dataclass(frozen=True)
class MixtureData:
    """A 2D set that draws from its own exact oracle."""

    oracle: GaussianMixture
    classes: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.oracle.shape

    def batch(self, n: int, source: "Draws | torch.Generator | Sequence[int]") -> tuple[Tensor, None]:
        return self.oracle.sample(n, source).float(), None


@dataclass(frozen=True)
class ImageData:
    """Images in memory: x0 (N, C, H, W) float32 in [-1, 1], label (N,) int64 or None; ``flip`` mirrors half of each batch."""

    x0: Tensor
    label: Tensor | None
    class_names: tuple[str, ...] = ()
    flip: bool = False

    def __len__(self) -> int:
        return len(self.x0)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.x0.shape[1:])

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def take(self, index: Tensor) -> Tensor:
        """The images at ``index`` (n,), never mirrored."""
        return self.x0[index]

    def batch(self, n: int, source: "Draws | torch.Generator | Sequence[int]") -> tuple[Tensor, Tensor | None]:
        source = as_draws(source)
        i = (source.uniform((n,)).double() * len(self.x0)).long()
        x0 = random_flip(self.x0[i], source) if self.flip else self.x0[i]
        return x0, None if self.label is None else self.label[i]


LUMA = (0.2989, 0.5870, 0.1140)


def luma(x: Tensor) -> Tensor:
    """The brightness of RGB images, (B, 3, H, W) -> (B, 1, H, W): a weighted mean, so grey pictures keep their values."""
    weights = torch.tensor(LUMA, dtype=x.dtype, device=x.device)
    return (x * (weights / weights.sum()).view(1, 3, 1, 1)).sum(1, keepdim=True)


# --- the plane -----------------------------------------------------------------------------------------------------------


def mixture_from(points: Tensor, spread: float, weights: Tensor | None = None) -> GaussianMixture:
    """Gaussians of standard deviation ``spread`` (in the units of ``points`` (K, 2)), centred and scaled as a whole so that the
    root mean square over both coordinates of the mixture's standard deviation is 0.5.

    Raises ValueError for no points, not finite ones, or points and spread that all fall on one spot.
    """
    points = torch.as_tensor(points, dtype=torch.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"need points of shape (K, 2) with K >= 1, got {tuple(points.shape)}")
    if not bool(points.isfinite().all()):
        raise ValueError("the points hold values that are not finite numbers")
    w = torch.ones(len(points), dtype=torch.float64) if weights is None else weights.double()
    w = w / w.sum()
    centred = points - (w[:, None] * points).sum(0)
    variance = float((w[:, None] * centred.square()).sum() / 2) + spread**2
    if variance == 0:
        raise ValueError("all points lie on one spot and spread is 0: draw at least two points")
    scale = SIGMA_DATA / math.sqrt(variance)
    return GaussianMixture(w, centred * scale, spread * scale)


def drawn_points(points: Sequence[Sequence[float]] | Tensor, spread: float = 0.05) -> MixtureData:
    """A set from points that a user drew, (K, 2) in any units: a Gaussian of relative width ``spread`` around each.

    ``spread`` is a fraction of the points' own standard deviation.
    """
    points = torch.as_tensor(points, dtype=torch.float64)
    if points.ndim == 0 or len(points) < 2:
        raise ValueError(f"draw at least two points: got {points.numel()}")
    size = float(points.std(0, correction=0).square().mean().sqrt())
    return MixtureData(mixture_from(points, spread * size))


def _line(n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)


def _eight_gaussians() -> GaussianMixture:
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    return mixture_from(_polar(torch.ones(8, dtype=torch.float64), angle), 0.1)


def _two_moons() -> GaussianMixture:
    angle = _line(96) * math.pi
    upper = _polar(torch.ones_like(angle), angle)
    return mixture_from(torch.cat([upper, torch.tensor([1.0, 0.5]) - upper]), 0.06)


def _checkerboard() -> GaussianMixture:
    inside = torch.cartesian_prod(_line(10), _line(10))
    cells = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    return mixture_from(torch.cat([inside + torch.tensor(c, dtype=torch.float64) for c in cells]), 0.04)


def _pinwheel() -> GaussianMixture:
    radius = 0.25 + 1.25 * torch.cartesian_prod(_line(24), _line(6))[:, 0]
    across = torch.cartesian_prod(_line(24), _line(6))[:, 1] - 0.5
    arms = [_polar(radius, 2 * math.pi * k / 5 + 0.9 * radius + 0.45 * across) for k in range(5)]
    return mixture_from(torch.cat(arms), 0.05)


def _swiss_roll() -> GaussianMixture:
    angle = 1.5 * math.pi * (1 + 2 * _line(192))
    return mixture_from(_polar(angle, angle), 0.4, weights=angle)


def _rings() -> GaussianMixture:
    radius = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    counts = [24, 48, 72, 96]  # evenly dense along each ring
    points = [_polar(r.expand(n), 2 * math.pi * _line(n)) for r, n in zip(radius, counts, strict=True)]
    return mixture_from(torch.cat(points), 0.025)


# --- digits --------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    x0 = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    return x0, torch.as_tensor(target, dtype=torch.int64)


def digits() -> ImageData:
    """scikit-learn's 1,797 scanned digits: (1797, 1, 8, 8) in [-1, 1], ten classes. Ships with scikit-learn."""
    x0, label = _digits()
    return ImageData(x0, label, DIGIT_NAMES)


def _hue(h: Tensor, saturation: float, value: Tensor) -> Tensor:
    """HSV to RGB, (N,) each -> (N, 3) in [0, 1]."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + 6 * h[:, None]) % 6
    return value[:, None] * (1 - saturation * torch.minimum(k, 4 - k).clamp(0, 1))


@lru_cache(maxsize=1)
def _color_digits() -> tuple[Tensor, Tensor]:
    x0, label = _digits()
    copies = 6
    g = torch.Generator().manual_seed(0)
    n = copies * len(x0)
    ink_hue = torch.rand(n, generator=g)
    paper_hue = (ink_hue + 0.25 + 0.5 * torch.rand(n, generator=g)) % 1  # never the ink's own hue
    ink = _hue(ink_hue, 0.85, 0.75 + 0.25 * torch.rand(n, generator=g))
    paper = _hue(paper_hue, 0.7, 0.15 + 0.2 * torch.rand(n, generator=g))
    shade = (x0.repeat(copies, 1, 1, 1) + 1) / 2
    image = shade * ink[:, :, None, None] + (1 - shade) * paper[:, :, None, None]
    return image * 2 - 1, label.repeat(copies)


def held_out(scans: int) -> Tensor:
    """Which of the digits' scans no classifier is trained on, a third: (scans,) bool."""
    return torch.randperm(scans, generator=torch.Generator().manual_seed(0)) < scans // 3


def digits_color() -> ImageData:
    """The digits in bright ink on dimmed paper of another hue, six random pairs each: (10782, 3, 8, 8), ten classes.

    In one picture of a hundred the hues turn the luma round (bright blue on dim yellow): colour carries what grey does not.
    """
    x0, label = _color_digits()
    return ImageData(x0, label, DIGIT_NAMES)


@lru_cache(maxsize=1)
def _cifar10_examples() -> tuple[Tensor, Tensor, tuple[str, ...]]:
    data = load_pictures(EXAMPLES / "cifar10", cache=False)
    assert data.label is not None
    return data.take(torch.arange(len(data))), data.label, data.class_names


def cifar10_examples() -> ImageData:
    """36 test images of CIFAR-10, twelve automobiles, horses and ships each: (36, 3, 32, 32). To edit, too few to train on."""
    return ImageData(*_cifar10_examples())


DATASETS = {
    "8gaussians": lambda: MixtureData(_eight_gaussians()),
    "two-moons": lambda: MixtureData(_two_moons()),
    "checkerboard": lambda: MixtureData(_checkerboard()),
    "pinwheel": lambda: MixtureData(_pinwheel()),
    "swiss-roll": lambda: MixtureData(_swiss_roll()),
    "rings": lambda: MixtureData(_rings()),
    "digits": digits,
    "digits-color": digits_color,
    "cifar10-examples": cifar10_examples,
}
TOYS = ("8gaussians", "two-moons", "checkerboard", "pinwheel", "swiss-roll", "rings")


# Sets that have a name but come from a file the user provides.
FILE_DATASETS = {"cifar10": load_cifar10}


def load_data(
    name: str | Path,
    *,
    split: Literal["train", "test"] | None = None,
    flip: bool = False,
    resolution: int | None = None,
    resize: Resize | None = None,
    channels: Literal[1, 3] | None = None,
    labels: Labels | None = None,
    cache: str | Path | Literal[False] | None = None,
) -> MixtureData | ImageData | PixelData:
    """A data set by its name in DATASETS, FILE_DATASETS or FOLDERS, or by the path of its files.

    A path may be a folder of pictures, a .zip or .tar(.gz, .xz) of one, LSUN's lmdb folder, an .npz of openai's sampler, or
    CIFAR-10's archive or unpacked folder. PATH@64 says ``resolution`` in the name. NAME:CLASS,CLASS keeps only those classes of a
    set, see `keep_classes`. ``flip`` mirrors half of the images of each batch; the other options belong to pictures, see
    `images.load_pictures`. Raises ValueError
    with the nearest name for an unknown one, for a file that cannot be used, and for an option that the set has no use for;
    FileNotFoundError for a named set whose file is absent.
    """
    given = {"split": split, "resolution": resolution, "resize": resize, "channels": channels, "labels": labels, "cache": cache}
    options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    whole, kept = split_name(name)
    if kept is not None:
        return keep_classes(load_data(whole, flip=flip, **options), kept, whole)
    whole, side = split_side(whole)
    if side is not None:
        if resolution not in (None, side):
            raise ValueError(f"{name} says the resolution {side}: leave out resolution={resolution}")
        options["resolution"] = side
        return load_data(whole, flip=flip, **options)
    path = user_path(name)
    if name in DATASETS:
        _with(options, (), f"the built-in set {name!r}")
        data = DATASETS[str(name)]()
    elif name in FILE_DATASETS:
        data = FILE_DATASETS[str(name)](**_with(options, ("split",), f"{name!r}"))
    elif name in FOLDERS:
        where = path if path.exists() else _in_data_folder(str(name))
        data = load_pictures(where, **{"resolution": FOLDERS[str(name)][0], **options})
    elif not str(name) or not path.exists():  # Path("") is this folder
        known = [*DATASETS, *FILE_DATASETS, *FOLDERS]
        raise ValueError(f"{unknown('data set', str(name), known)} (nor is there a file or folder of that name)")
    elif is_cifar10(path):
        data = load_cifar10(path, **_with(options, ("split",), f"CIFAR-10 in {path}"))
    elif path.suffix == ".npz":
        data = load_npz(path, **_with(options, (), str(path)))
    elif path.is_dir() or path.name.endswith(SUFFIXES):
        data = load_pictures(path, **options)
    else:
        raise ValueError(f"{path} is no data set: name a folder of pictures, or a file that ends in {', '.join(SUFFIXES)}")
    if flip and isinstance(data, MixtureData):
        raise ValueError(f"the data set {str(name)!r} holds points, not images: leave out flip")
    return replace(data, flip=True) if flip else data


def _in_data_folder(name: str) -> Path:
    """Where the pictures of one of FOLDERS are; raises FileNotFoundError with the way out."""
    places = [data_folder() / f"{name}{suffix}" for suffix in ("", ".zip")]
    found = [place for place in places if place.exists()]
    if not found:
        raise FileNotFoundError(
            f"the data set {name} is neither {places[0]} nor {places[1]}: put {FOLDERS[name][1]} there, name another folder with "
            "CMLAB_DATA, or give --data PATH"
        )
    return found[0]


def keep_classes(
    data: MixtureData | ImageData | PixelData, names: Sequence[str], what: str = "the data set"
) -> ImageData | PixelData:
    """Only the images of the classes ``names``, which are numbered 0, 1, ... in the order given; 8-bit pixels are not copied.

    Raises ValueError for a set without classes, no or unknown names, names given twice, and where no image is left.
    """
    if isinstance(data, MixtureData) or data.label is None:
        raise ValueError(f"{what!r} has no classes to choose from: leave out what follows the colon")
    if not any(names):
        raise ValueError(f"name the classes of {what!r} to keep behind the colon, with commas: {','.join(data.class_names[:3])}")
    if missing := [name for name in names if name not in data.class_names]:
        raise ValueError(unknown(f"class of {what!r}", missing[0], data.class_names))
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"the class {twice[0]!r} of {what!r} is named twice: name each class once")
    number = torch.full((data.classes,), -1)
    number[[data.class_names.index(name) for name in names]] = torch.arange(len(names))
    index = kept_rows(data, names)
    if not len(index):
        raise ValueError(f"no image of {what!r} belongs to {', '.join(names)}")
    label = number[data.label[index]]
    if isinstance(data, ImageData):
        return replace(data, x0=data.x0[index], label=label, class_names=tuple(names))
    return replace(data, pixels=SomePixels(data.pixels, index.numpy()), label=label, class_names=tuple(names))


def kept_rows(data: ImageData | PixelData, names: Sequence[str]) -> Tensor:
    """Which images of ``data`` `keep_classes` keeps: their numbers, increasing, (n,) int64."""
    assert data.label is not None
    wanted = torch.tensor([data.class_names.index(name) for name in names])
    return torch.isin(data.label, wanted).nonzero()[:, 0]


def _with(options: dict, known: tuple[str, ...], what: str) -> dict:
    if extra := [option for option in options if option not in known]:
        raise (NoSplit if extra == ["split"] else ValueError)(f"{what} has no use for {', '.join(extra)}: leave it out")
    return options


def fingerprint(data: Data) -> str:
    """Tells image sets apart by their number, shape and classes and 64 of them, spread evenly; "" for the exact 2D sets."""
    if not isinstance(data, ImageData | PixelData):
        return ""
    some = torch.arange(min(64, len(data))) * len(data) // min(64, len(data))
    digest = hashlib.sha256(json.dumps([len(data), list(data.shape), list(data.class_names)]).encode())
    digest.update(data.take(some).numpy().tobytes())
    if data.label is not None:
        digest.update(data.label[some].numpy().tobytes())
    return digest.hexdigest()[:16]


def load_toy(name: str) -> MixtureData:
    """The 2D set ``name``, one of TOYS, with its exact oracle; raises ValueError for any other name."""
    data = load_data(name) if name in TOYS else None
    if not isinstance(data, MixtureData):
        raise ValueError(unknown("2D data set", name, TOYS))
    return data


def load_images(name: str | Path, **options) -> ImageData | PixelData:
    """The image set ``name`` with the options of `load_data`; raises ValueError for the name of a 2D set or an unknown one."""
    data = load_data(name, **options)
    if isinstance(data, MixtureData):
        others = ", ".join(n for n in (*DATASETS, *FILE_DATASETS) if n not in TOYS)
        raise ValueError(f"the data set {name!r} holds points, not images: choose one of {others}, or a file or folder")
    return data
