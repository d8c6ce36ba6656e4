"""Data sets: exact 2D mixtures, digits, CIFAR-10, pictures in folders and archives, and how all of them are called."""

from typing import Any

from ..base.registry import DATASETS
from ..editing import LUMA, luma
from .cifar10 import EXAMPLES, cifar10_examples
from .load import load_data, load_images, load_toy
from .mnist import mnist_examples
from .scikit_digits import digits, digits_color, held_out
from .sets import Data, ImageData, MixtureData, PixelData, fingerprint, keep_classes, kept_rows
from .toys import drawn_points, mixture_from

__all__ = [
    "DATASETS", "Data", "EXAMPLES", "FILE_DATASETS", "ImageData", "LUMA", "MixtureData", "PixelData", "TOYS", "cifar10_examples",
    "digits", "digits_color", "drawn_points", "fingerprint", "held_out", "keep_classes", "kept_rows", "load_data", "load_images",
    "load_toy", "luma", "mixture_from", "mnist_examples",
]  # fmt: skip

TOYS: tuple[str, ...]  # the names of the 2D sets
FILE_DATASETS: dict[str, Any]  # those that have a name, but come from a file that the user provides


def __getattr__(name: str) -> Any:
    """Asked anew each time: a data set may be registered later."""
    if name == "TOYS":
        return DATASETS.of_kind("toy")
    if name == "FILE_DATASETS":
        return {known: DATASETS[known] for known in DATASETS.of_kind("file")}
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
