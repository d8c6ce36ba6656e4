"""A data set by its name, or by the path of its files."""

import inspect
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..base.files import user_path
from ..base.registry import DATASETS
from ..base.suggest import unknown
from .cifar10 import is_cifar10, load_cifar10
from .names import split_format, split_name
from .pictures import SUFFIXES, Labels, Resize, load_npz, load_pictures
from .sets import ImageData, MixtureData, NoSplit, PixelData, keep_classes


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
    """A data set by its name in DATASETS, or by the path of its files.

    A path may be a folder of pictures, a .zip or .tar(.gz, .xz) of one, LSUN's lmdb folder, an .npz of openai's sampler, or
    CIFAR-10's archive or unpacked folder. PATH@64 says ``resolution`` in the name, PATH@grey ``channels`` = 1, PATH@64grey both.
    NAME:CLASS,CLASS keeps only those classes of a set, see `keep_classes`. ``flip`` mirrors half of the images of each batch; the
    other options belong to pictures, see `pictures.load_pictures`. Raises ValueError with the nearest name for an unknown one, for
    a file that cannot be used, and for an option that the set has no use for; FileNotFoundError for a named set whose file is
    absent.
    """
    given = {"split": split, "resolution": resolution, "resize": resize, "channels": channels, "labels": labels, "cache": cache}
    options: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    whole, kept = split_name(name)
    if kept is not None:
        return keep_classes(load_data(whole, flip=flip, **options), kept, whole)
    bare, *sizes = split_format(whole)
    said = {key: value for key, value in zip(("resolution", "channels"), sizes, strict=True) if value is not None}
    if other := next((key for key in said if options.get(key, said[key]) != said[key]), None):
        raise ValueError(f"{name} says the {other} {said[other]}: leave out {other}={options[other]}")
    if said:
        return load_data(bare, flip=flip, **{**options, **said})
    path = user_path(name)
    if name in DATASETS:
        load = DATASETS[str(name)]
        data = load(**_with(options, _options_of(load), f"the data set {name!r}"))
        if not all(hasattr(data, part) for part in ("shape", "classes", "batch")):  # one of the user's own
            wanted = "an ImageData, PixelData or MixtureData of cmlab.data.sets"
            raise ValueError(f"the function of the data set {name!r} returns a {type(data).__name__}, not {wanted}")
    elif not path.exists() and (path.suffix or path.parent != Path(".")):
        raise ValueError(f"no file or folder at {path}: check the path, or name a data set ('cmlab info' lists them)")
    elif (behind := str(name).rpartition("@"))[0] and not path.exists():
        forms = f"{behind[0]}@64 fits pictures to a side, {behind[0]}@64grey makes them grey too"
        raise ValueError(f"'@{behind[2]}' says no form of pictures: {forms}")
    elif not str(name) or not path.exists():  # Path("") is this folder
        raise ValueError(f"{unknown('data set', str(name), DATASETS)} (nor is there a file or folder of that name)")
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


def _options_of(load: Any) -> Collection[str] | None:
    """The options that a function of DATASETS takes; None for all."""
    taken = inspect.signature(load).parameters
    return None if any(p.kind is p.VAR_KEYWORD for p in taken.values()) else taken


def _with(options: dict, known: Collection[str] | None, what: str) -> dict:
    if known is not None and (extra := [option for option in options if option not in known]):
        raise (NoSplit if extra == ["split"] else ValueError)(f"{what} has no use for {', '.join(extra)}: leave it out")
    return options


def load_toy(name: str) -> MixtureData:
    """The 2D set ``name``, one of TOYS, with its exact oracle; raises ValueError for any other name."""
    toys = DATASETS.of_kind("toy")
    if name not in toys:
        raise ValueError(unknown("2D data set", name, toys))
    return DATASETS[name]()


def load_images(name: str | Path, **options) -> ImageData | PixelData:
    """The image set ``name`` with the options of `load_data`; raises ValueError for the name of a 2D set or an unknown one."""
    data = load_data(name, **options)
    if isinstance(data, MixtureData):
        others = ", ".join(DATASETS.of_kind("images", "file"))
        raise ValueError(f"the data set {name!r} holds points, not images: choose one of {others}, or a file or folder")
    return data
