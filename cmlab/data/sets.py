"""What a data set is to a training: samples with their labels, in memory, mapped from a file, or drawn from an exact mixture."""

import hashlib
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ..base.suggest import unknown
from ..noise import Draws, Source, as_draws, send
from ..oracle import GaussianMixture
from .pixels import from_pixels

_log = logging.getLogger(__name__)
MAX_CLASSES = 2**17  # a network has weights for each
WORKERS = min(16, os.cpu_count() or 1)  # threads that decode pictures


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

    def batch(self, n: int, source: Source) -> tuple[Tensor, Tensor | None]:
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

    def batch(self, n: int, source: Source) -> tuple[Tensor, None]:
        return self.oracle.sample(n, source).float(), None


LARGEST = 1.5  # of a pixel: some filters ring a little beyond 1


@dataclass(frozen=True)
class ImageData:
    """Images in memory: x0 (N, C, H, W) float32 in [-1, 1], label (N,) int64 or None; ``flip`` mirrors half of each batch.

    Labels without ``class_names`` are of the classes "0", "1", ... Raises ValueError for images and labels of other kinds.
    """

    x0: Tensor
    label: Tensor | None
    class_names: tuple[str, ...] = ()
    flip: bool = False

    def __post_init__(self):
        x0 = self.x0
        if not isinstance(x0, Tensor) or x0.ndim != 4 or not len(x0):
            found = f"shape {tuple(x0.shape)}" if isinstance(x0, Tensor) else type(x0).__name__
            raise ValueError(f"x0 should be a tensor of images, (N, C, H, W), got {found}: torch.as_tensor takes arrays and lists")
        if not x0.is_floating_point():
            raise ValueError(f"x0 should be floating numbers in [-1, 1], got {x0.dtype}: PixelData(x0.numpy(), label) takes uint8")
        low, high = (float(end) for end in x0.aminmax())
        if math.isfinite(low) and math.isfinite(high):  # others are for the loss to tell
            if max(-low, high) > LARGEST:
                found = f"goes from {low:.4g} to {high:.4g}"
                raise ValueError(f"x0 should lie in [-1, 1], and {found}: scale it, x0 / 127.5 - 1 for 0..255")
            if low >= 0 and high > 0.5:
                _log.warning("x0 goes from %.3g to %.3g: images lie in [-1, 1], of 0..1 they are 2 * x0 - 1", low, high)
        object.__setattr__(self, "x0", x0.float())
        object.__setattr__(self, "class_names", names_of(self.label, self.class_names, len(x0)))

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
        return self.x0[send(index, self.x0.device)]

    def batch(self, n: int, source: Source) -> tuple[Tensor, Tensor | None]:
        source = as_draws(source)
        i = (source.uniform((n,)).double() * len(self.x0)).long()
        x0 = self.take(i)
        return random_flip(x0, source) if self.flip else x0, None if self.label is None else self.label[i]


def names_of(label: Tensor | None, names: Sequence[str], count: int) -> tuple[str, ...]:
    """The names of the classes of ``count`` samples, numbers where none are given. Raises ValueError for labels that do not fit."""
    if label is None:
        return tuple(names)
    if not isinstance(label, Tensor) or label.dtype != torch.int64 or label.shape != (count,):
        found = f"{label.dtype} of shape {tuple(label.shape)}" if isinstance(label, Tensor) else type(label).__name__
        raise ValueError(f"label should be a tensor (N,) = ({count},) of int64, one class number per image, got {found}")
    low, high = (int(end) for end in label.aminmax())
    if low < 0 or high >= (len(names) or MAX_CLASSES):
        raise ValueError(f"labels count the classes from 0, below {len(names) or MAX_CLASSES}: got {low if low < 0 else high}")
    return tuple(names) or tuple(str(k) for k in range(high + 1))


class Pixels(Protocol):
    """uint8 (N, C, H, W): a numpy array, a memory map, or `LazyPixels`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: np.ndarray, /) -> np.ndarray: ...


def random_index(count: int, n: int, source: Draws) -> Tensor:
    """``n`` even indices below ``count`` (n,); two uniforms each, as the 24 bits of one are too coarse for a million images."""
    u = source.uniform((n, 2)).double()
    return ((u[:, 0] + u[:, 1] * 2**-24) * count).long().clamp_(max=count - 1)


def random_flip(x0: Tensor, source: Draws) -> Tensor:
    """Images (n, C, H, W), each mirrored left to right with probability 1/2."""
    mirrored = send(source.uniform((len(x0),)) < 0.5, x0.device)
    return torch.where(mirrored[:, None, None, None], x0.flip(3), x0)


@dataclass(frozen=True, eq=False)
class PixelData:
    """Images as uint8: pixels (N, C, H, W), label (N,) int64 or None; they become float32 in [-1, 1] batch by batch.

    Labels without ``class_names`` are of the classes "0", "1", ... Raises ValueError for images and labels of other kinds.
    """

    pixels: Pixels
    label: Tensor | None
    class_names: tuple[str, ...] = ()
    flip: bool = False

    def __post_init__(self):
        kind = getattr(self.pixels, "dtype", np.uint8)  # pictures that are decoded when they are asked for say none
        if isinstance(self.pixels, Tensor) or kind != np.uint8 or len(self.pixels.shape) != 4:
            found = f"{type(self.pixels).__name__} of {kind}, {tuple(self.pixels.shape)}"
            raise ValueError(f"pixels should be a NumPy array (N, C, H, W) of uint8, got {found}")
        object.__setattr__(self, "class_names", names_of(self.label, self.class_names, len(self.pixels)))

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.pixels.shape[1:])

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def x0(self) -> Tensor:
        """All of them as float32: four times the memory of the pixels."""
        return self.take(torch.arange(len(self)))

    def take(self, index: Tensor) -> Tensor:
        """The images at ``index`` (n,), float32 (n, C, H, W) in [-1, 1], never mirrored."""
        if isinstance(self.pixels, DevicePixels):
            return from_pixels(self.pixels.tensor[send(index, self.pixels.tensor.device)])
        return from_pixels(torch.from_numpy(np.ascontiguousarray(self.pixels[index.numpy()])))

    def batch(self, n: int, source: Source) -> tuple[Tensor, Tensor | None]:
        source = as_draws(source)
        i = random_index(len(self), n, source)
        x0 = self.take(i)
        return random_flip(x0, source) if self.flip else x0, None if self.label is None else self.label[i]


class SomePixels:
    """The images ``index`` (n,) of others, which are neither copied nor read before they are asked for."""

    def __init__(self, pixels: Pixels, index: np.ndarray):
        self.pixels, self.index, self.shape = pixels, index, (len(index), *pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return self.pixels[self.index[index]]


class LazyPixels:
    """Pictures that are decoded whenever they are asked for."""

    def __init__(self, names: Sequence[str], decode: Callable[[str], np.ndarray], shape: tuple[int, ...]):
        self.names, self.decode, self.shape = names, decode, (len(names), *shape)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        with ThreadPoolExecutor(WORKERS) as pool:  # PIL decodes outside Python's lock
            return np.stack(list(pool.map(self.decode, [self.names[i] for i in index])))


class DevicePixels:
    """Images as uint8 on a GPU, (N, C, H, W)."""

    def __init__(self, tensor: Tensor):
        self.tensor, self.shape = tensor, tuple(tensor.shape)

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return self.tensor[torch.as_tensor(index, device=self.tensor.device)].cpu().numpy()


def near(data: Data, device: torch.device) -> Data:
    """``data`` with its images on a GPU, where they take at most a quarter of the memory that is free there; else as it is.

    A batch is then chosen there, and no picture crosses the bus. Labels stay, they are few.
    """
    if device.type != "cuda" or not isinstance(data, ImageData | PixelData):
        return data
    room = torch.cuda.mem_get_info(device)[0] // 4
    if isinstance(data, ImageData):
        return replace(data, x0=data.x0.to(device)) if data.x0.nbytes <= room else data
    if isinstance(data.pixels, np.ndarray) and data.pixels.nbytes <= room:
        return replace(data, pixels=DevicePixels(torch.from_numpy(np.ascontiguousarray(data.pixels)).to(device)))
    return data


class NoSplit(ValueError):
    """A set that is not divided into training and test pictures."""


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
    images = {"x0": data.x0[index]} if isinstance(data, ImageData) else {"pixels": SomePixels(data.pixels, index.numpy())}
    return replace(data, **images, label=number[data.label[index]], class_names=tuple(names))


def kept_rows(data: ImageData | PixelData, names: Sequence[str]) -> Tensor:
    """Which images of ``data`` `keep_classes` keeps: their numbers, increasing, (n,) int64."""
    assert data.label is not None
    wanted = torch.tensor([data.class_names.index(name) for name in names])
    return torch.isin(data.label, wanted).nonzero()[:, 0]


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
