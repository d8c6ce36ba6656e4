"""MNIST (LeCun, Cortes and Burges, 1998) and Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017) from their official IDX files."""

import gzip
import hashlib
import math
import zlib
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ..base.files import user_path
from ..base.registry import DATASETS
from ..base.suggest import check_choice
from .cifar10 import EXAMPLES
from .pictures import data_folder, load_pictures
from .scikit_digits import DIGIT_NAMES, inks
from .sets import ImageData, PixelData
from .sources import MAX_BYTES

SHAPE = (1, 28, 28)
FASHION = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")
FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
ALL_FILES = sum(FILES.values(), ())
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # its classes and their folders
# md5 of MNIST's pixels, training and test: Fashion-MNIST's files have the same names.
MNIST_PIXELS = ("6510e85a72c3e9475c492d559d3770d2", "240610fa99e73bfa49df8e7fc24d3206")


def read_idx(path: Path, dims: int) -> np.ndarray:
    """The uint8 array of an IDX file, plain or .gz: two zeros, 8 for bytes, the number of dimensions, their sizes, the values.

    Raises ValueError with its name for a file that is damaged, of another kind, or has not ``dims`` dimensions.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic = file.read(4)
            if len(magic) < 4 or magic[:3] != b"\0\0\x08":
                raise ValueError(f"{path} is no IDX file of bytes, it begins with {magic.hex(' ') or 'nothing'}: fetch it again")
            if magic[3] != dims:
                kinds = {1: "labels", 3: "images"}
                found = kinds.get(magic[3], f"an array of {magic[3]} dimensions")
                raise ValueError(f"{path} holds {found}, not {kinds[dims]}: are the files swapped? If not, fetch it again")
            sizes = tuple(int(n) for n in np.frombuffer(file.read(4 * dims).ljust(4 * dims, b"\0"), ">u4"))
            count = math.prod(sizes)
            values = file.read(min(count, MAX_BYTES) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again") from error
    if len(values) != count or not count:
        found = "cut short" if len(values) <= count else "longer"
        raise ValueError(f"{path} should hold {count:,} values, and is {found}: fetch it again")
    return np.frombuffer(values, np.uint8).reshape(sizes)


def download(name: Literal["mnist", "fashion-mnist"] = "mnist", folder: str | Path | None = None) -> Path:
    """Fetch the four files of a set (11 or 30 MB) into ``folder``, by default `data_folder`; returns the folder that they are in.

    torchvision does it, which knows mirrors and checksums. Raises ImportError where it is not installed, OSError that says what to
    put where when they cannot be fetched.
    """
    try:
        from torchvision import datasets  # an extra
    except ImportError as error:
        raise ImportError("torchvision fetches MNIST: pip install torchvision") from error
    root = user_path(folder or data_folder())
    try:
        getattr(datasets, TORCHVISION[name])(root, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        way = f"put its four official files ({', '.join(ALL_FILES)}) in {root / name}, plain or .gz"
        raise OSError(f"{DATASETS.record(name).label} could not be fetched ({error}): {way}") from error
    return root / TORCHVISION[name] / "raw"


def _find(name: str, file: str) -> Path:
    """One file of a set, plain or packed, in a folder of the set's name, where torchvision keeps it, or in the data folder."""
    places = [data_folder() / name, data_folder() / TORCHVISION[name] / "raw", data_folder()]
    for path in (folder / f"{file}{suffix}" for folder in places for suffix in ("", ".gz")):
        if path.is_file():
            return path
    command = f"python -c 'import cmlab.data.mnist as m; m.download(\"{name}\")'"
    way = f"put the four official files ({', '.join(ALL_FILES)}) there ({command} does), or name their folder with CMLAB_DATA"
    raise FileNotFoundError(f"{DATASETS.record(name).label} has no {file}, plain or .gz, in {places[0]} or {places[-1]}: {way}")


def _load(name: str, split: str | None) -> PixelData:
    check_choice("split", split or "train", FILES)
    images, labels = (_find(name, file) for file in FILES[split or "train"])
    return _read(name, images, labels, images.stat().st_mtime_ns, labels.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _read(name: str, images: Path, labels: Path, *_stamps: int) -> PixelData:
    pixels, label = read_idx(images, 3)[:, None], read_idx(labels, 1)
    class_names = DATASETS.record(name).facts["class_names"]
    if pixels.shape[1:] != SHAPE:
        raise ValueError(f"{images} holds images of {pixels.shape[3]} x {pixels.shape[2]}, not 28 x 28: these are not {name}'s")
    if len(pixels) != len(label):
        raise ValueError(f"{images} holds {len(pixels):,} images and {labels} {len(label):,} labels: fetch both again")
    if label.max() >= len(class_names):
        wrong = f"holds the label {label.max()}, and {name} has classes 0 to {len(class_names) - 1}"
        raise ValueError(f"{labels} {wrong}: fetch it again")
    if name != "mnist" and hashlib.md5(pixels.tobytes(), usedforsecurity=False).hexdigest() in MNIST_PIXELS:
        raise ValueError(f"{images} holds MNIST's digits: put {name}'s own files in {data_folder() / name}")
    return PixelData(pixels, torch.from_numpy(label.astype(np.int64)), class_names)


@DATASETS.register(
    "mnist", "MNIST", "70,000 handwritten digits of 28 x 28 grey pixels", kind="file", shape=SHAPE, class_names=DIGIT_NAMES
)
def mnist(*, split: Literal["train", "test"] | None = None) -> PixelData:
    """MNIST's 60,000 training images, or 10,000 for ``split="test"``: uint8 (N, 1, 28, 28), ten classes.

    Raises FileNotFoundError that says what to put where, ValueError for a file that is damaged or another one.
    """
    return _load("mnist", split)


@DATASETS.register(
    "mnist-color",
    "MNIST in colour",
    "MNIST's digits, each in a bright ink on paper of another hue",
    kind="file",
    shape=(3, *SHAPE[1:]),
    class_names=DIGIT_NAMES,
)
def mnist_color(*, split: Literal["train", "test"] | None = None) -> PixelData:
    """MNIST with a random ink and paper for each image, always the same: uint8 (N, 3, 28, 28). Files and errors as `mnist`."""
    return _in_colours(mnist(split=split), seed=int(split == "test"))


@lru_cache(maxsize=2)
def _in_colours(grey: PixelData, seed: int) -> PixelData:
    ink, paper = (255 * color.numpy() for color in inks(len(grey), seed))
    pixels = np.empty((len(grey), 3, *SHAPE[1:]), np.uint8)
    for part in np.array_split(np.arange(len(grey)), -(-len(grey) // 4096)):  # as floats all of them take a gigabyte
        shade = grey.pixels[part] / np.float32(255)
        pixels[part] = np.rint(shade * ink[part] + (1 - shade) * paper[part])
    return PixelData(pixels, grey.label, DIGIT_NAMES)


@DATASETS.register(
    "fashion-mnist",
    "Fashion-MNIST",
    "70,000 pieces of clothing, 28 x 28 grey pixels",
    kind="file",
    shape=SHAPE,
    class_names=FASHION,
)
def fashion_mnist(*, split: Literal["train", "test"] | None = None) -> PixelData:
    """Fashion-MNIST in MNIST's place: as many images, of as many classes, in files of the same names. Errors as `mnist`."""
    return _load("fashion-mnist", split)


@DATASETS.register("mnist-examples", help="24 test images of MNIST, to edit", kind="images")
@lru_cache(maxsize=1)
def mnist_examples() -> ImageData:
    """24 test images of MNIST, at least two of each digit: (24, 1, 28, 28). To edit, too few to train on."""
    data = load_pictures(EXAMPLES / "mnist", channels=1, cache=False)
    return ImageData(data.x0, data.label, data.class_names)
