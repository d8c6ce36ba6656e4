"""Pictures in folders, zips, tars, npz and LSUN's lmdb, as uint8 in memory, memory-mapped or read when asked for.

Pictures are decoded once into an .npy in a cache folder ($CMLAB_CACHE, else ~/.cache/cmlab) and mapped from there; with
``cache=False`` every batch is decoded anew, for sets that are too large to keep unpacked. Nothing in a file is ever executed.
"""

import hashlib
import json
import logging
import math
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import numpy as np
import torch

from ..base.files import beside, user_path
from ..base.suggest import check_choice
from ..base.text import count
from . import sources
from .pixels import MAX_PIXELS, RESIZE, Resize, decode
from .sets import MAX_CLASSES, WORKERS, LazyPixels, NoSplit, PixelData, Pixels
from .sources import PICTURES, SPLITS, Source

Labels = Literal["auto", "folder", "prefix", "none"]
SUFFIXES = (".zip", ".npz", ".tar", ".tar.gz", ".tgz", ".tar.xz")


def _choose(path: Path, source: Source, split: str | None, rule: Labels) -> tuple[Source, list[int] | None, tuple[str, ...]]:
    """The pictures of one split, their class numbers and the classes' names."""
    if not source.names:
        raise ValueError(f"{path} holds no pictures ({', '.join(PICTURES)})")
    every = source.names  # classes keep their numbers in a split that lacks some
    tops = {name.partition("/")[0] for name in source.names if "/" in name}
    split_folders = {folder: s for s, folders in SPLITS.items() for folder in folders}
    if tops and tops <= set(split_folders) and all("/" in name for name in source.names):
        folders = [top for top in sorted(tops) if split_folders[top] == (split or "train")]
        if not folders:
            raise NoSplit(f"{path} has no {split or 'train'} pictures: it holds the folders {', '.join(sorted(tops))}")
        cut = f"{folders[0]}/"
        names = [name.removeprefix(cut) for name in source.names if name.startswith(cut)]
        labels = {k.removeprefix(cut): v for k, v in source.labels.items()} if source.labels else source.labels
        read, every = source.read, [name.partition("/")[2] for name in every]
        source = source._replace(names=names, read=lambda name: read(cut + name), labels=labels)
    elif split is not None:
        raise NoSplit(f"{path} is not split into folders train and test: leave out split={split!r}")
    return source, *_labels(path, source, every, rule)


def _labels(path: Path, source: Source, every: list[str], rule: Labels) -> tuple[list[int] | None, tuple[str, ...]]:
    names = source.names
    if rule == "none" or (rule == "auto" and source.labels == {}):
        return None, ()
    if rule == "auto" and source.labels is not None:
        without = [name for name in names if name not in source.labels]
        if without:
            raise ValueError(f"dataset.json of {path} has no label for {len(without)} of {len(names)} pictures, first {without[0]}")
        return [source.labels[name] for name in names], _numbered(path, list(source.labels.values()))
    if rule == "prefix":
        if bad := [name for name in names if "_" not in PurePosixPath(name).name]:
            raise ValueError(f"labels='prefix' wants file names such as cat_0001.png, got {bad[0]}")
        class_of = {name: PurePosixPath(name).name.partition("_")[0] for name in every}
    elif rule == "folder" or (rule == "auto" and all("/" in name for name in names)):
        if bad := [name for name in names if "/" not in name]:
            raise ValueError(f"labels='folder' wants every picture in the folder of its class, and {bad[0]} lies in none")
        class_of = {name: name.partition("/")[0] for name in every if "/" in name}
    else:
        return None, ()
    order = tuple(sorted(set(class_of.values())))
    number = {c: k for k, c in enumerate(order)}
    return [number[class_of[name]] for name in names], order


def _numbered(path: str | Path, numbers: list[int]) -> tuple[str, ...]:
    """Names for classes that have none: "0", "1", ..."""
    if max(numbers) >= MAX_CLASSES:
        raise ValueError(f"{path} numbers a class {max(numbers)}: count them from 0, below {MAX_CLASSES:,}")
    return tuple(str(k) for k in range(max(numbers) + 1))


def data_folder() -> Path:
    """Where data sets are looked for by name: $CMLAB_DATA, else ./data."""
    return user_path(os.environ.get("CMLAB_DATA") or "data")


def cache_folder(cache: str | Path | None = None) -> Path:
    """Where decoded pictures are kept: ``cache``, else $CMLAB_CACHE, else ~/.cache/cmlab."""
    return user_path(cache or os.environ.get("CMLAB_CACHE") or "~/.cache/cmlab")


def load_pictures(
    path: str | Path,
    *,
    split: Literal["train", "test"] | None = None,
    resolution: int | None = None,
    resize: Resize | None = None,
    channels: Literal[1, 3] = 3,
    labels: Labels = "auto",
    cache: str | Path | Literal[False] | None = None,
) -> PixelData:
    """Pictures of a folder, .zip, .tar(.gz, .xz) or LSUN's lmdb folder.

    What is left out, and what is changed in pictures that are kept in the cache, is told in the log, with the first names.

    Args:
        split: which of the top folders train and test (or val); None takes train, or everything where there is no split.
        resolution: the side of the square that every picture is cut and resized to; None where all have one size already.
        resize: how, see `decode`; None is "openai".
        channels: 3, where grey pictures get three equal channels, or 1, where coloured ones become grey.
        labels: "auto" reads dataset.json (EDM) or else takes the folders in which all pictures lie as classes; "folder" and
            "prefix" (cat_0001.png, openai) insist; "none" ignores both.
        cache: the folder for decoded pictures, see `cache_folder`; False decodes them batch by batch.
    """
    path = user_path(path)
    check_choice("labels", labels, get_args(Labels))
    check_choice("split", split or "train", SPLITS)
    if channels not in (1, 3):
        raise ValueError(f"unknown channels {channels!r}: choose one of 1, 3")
    check_choice("resize", resize or "openai", RESIZE)
    if resolution is None and resize is not None:
        raise ValueError(f"resize={resize!r} has no effect without resolution=")
    if resolution is not None and not 1 <= resolution**2 <= MAX_PIXELS:
        raise ValueError(f"resolution must be at least 1 and at most {math.isqrt(MAX_PIXELS)}, got {resolution}")
    if cache is False and path.is_file() and path.suffix != ".zip":
        raise ValueError(f"{path} can only be read from start to end: unpack it, or leave out cache=False")
    how = {"channels": channels, "resolution": resolution, "resize": resize or "openai"}
    if cache is False:
        source, numbers, class_names = _choose(path, sources.open_source(path), split, labels)
        _tell(path, *_notes(source, []))
        first = decode(source.read(source.names[0]), source.names[0], **how)
        return _data(LazyPixels(source.names, _same_size(source, first, how), first.shape), numbers, class_names)
    key = hashlib.sha256(json.dumps([2, str(path.resolve()), sources.stamp(path), split, labels, how]).encode()).hexdigest()[:32]
    pixels, about = (cache_folder(cache) / f"{key}{suffix}" for suffix in (".npy", ".json"))
    if not about.is_file():
        source, numbers, class_names = _choose(path, sources.open_source(path), split, labels)
        changes: list[tuple[str, str]] = []
        _write(pixels, lambda file: _decode_all(source, how, file, changes))
        notes = _notes(source, changes)
        text = json.dumps({"from": str(path), "numbers": numbers, "class_names": class_names, "notes": notes})
        _write(about, lambda file: file.write_text(text))  # last: where it is, the pixels are complete
    told = json.loads(about.read_text())
    _tell(path, *told["notes"])
    return _data(np.load(pixels, mmap_mode="r"), told["numbers"], tuple(told["class_names"]))


def _data(pixels: Pixels, numbers: list[int] | None, class_names: tuple[str, ...]) -> PixelData:
    return PixelData(pixels, None if numbers is None else torch.tensor(numbers), class_names)


def _same_size(source: Source, first: np.ndarray, how: dict) -> Callable[[str], np.ndarray]:
    def one(name: str) -> np.ndarray:
        pixels = decode(source.read(name), name, **how)
        if pixels.shape != first.shape:
            (h, w), (height, width) = pixels.shape[1:], first.shape[1:]
            way = "pass resolution= (on the command line --resolution 32, or PATH@32) to fit all to one size"
            raise ValueError(f"{name} is {w} x {h}, {source.names[0]} is {width} x {height}: {way}")
        return pixels

    return one


def _notes(source: Source, changes: list[tuple[str, str]]) -> list[str]:
    """What was left out of a set and what was changed in how many pictures, a line each."""
    groups: dict[str, list[str]] = {}
    for name, change in sorted(changes):
        groups.setdefault(re.sub(r"\d+ frames", "frames", change), []).append(name)
    lines = [f"{len(names)} of {len(source.names)} pictures {change}: {_first(names)}" for change, names in groups.items()]
    if source.skipped:
        names_do = "name does" if len(source.skipped) == 1 else "names do"
        left = f"left out {count(len(source.skipped), 'file')} whose {names_do} not end as pictures do"
        lines.insert(0, f"{left}: {_first(source.skipped)}")
    return lines


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


@lru_cache  # once for each set, which is often loaded for its parts
def _tell(path: Path, *notes: str) -> None:
    for note in notes:
        logging.getLogger(__name__).warning("%s: %s", path, note)


def _decode_all(source: Source, how: dict, file: Path, changes: list[tuple[str, str]]) -> None:
    first = decode(source.read(source.names[0]), source.names[0], **how)
    out = np.lib.format.open_memmap(file, "w+", np.uint8, (len(source.names), *first.shape))
    with ThreadPoolExecutor(WORKERS) as pool:
        for start in range(0, len(out), 1024):
            part = source.names[start : start + 1024]
            out[start : start + len(part)] = np.stack(list(pool.map(_same_size(source, first, how | {"told": changes}), part)))
    out.flush()


def _write(file: Path, write: Callable[[Path], object]) -> None:
    try:
        with beside(file) as part:
            write(part)
    except OSError as error:
        way = "name another folder with CMLAB_CACHE"
        raise ValueError(f"cannot keep decoded pictures in {file.parent} ({error}): {way}") from error


def npz_arrays(path: str | Path, *names: str) -> list[np.ndarray | None]:
    """The arrays of an .npz by their names, None for those that are not there; raises ValueError for any other file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return [file.get(name) for name in names]
    except Exception as error:  # of numpy, zipfile or its codecs
        raise ValueError(f"{path} is no npz of plain arrays: {error}") from error


def load_npz(path: str | Path) -> PixelData:
    """arr_0 uint8 (N, H, W, 3 or 1) and, if there, arr_1 the class numbers (N,): what openai's sampling script writes."""
    pixels, numbers = npz_arrays(path, "arr_0", "arr_1")
    if pixels is None or pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or not pixels.size:
        found = "no array of that name" if pixels is None else f"{pixels.dtype} {pixels.shape}"
        raise ValueError(f"{path} should hold arr_0, uint8 (N, H, W, 3), and holds {found}")
    if numbers is not None and (numbers.dtype.kind not in "iu" or numbers.shape != (len(pixels),) or numbers.min() < 0):
        found = f"is {numbers.dtype} {numbers.shape}" + f", from {numbers.min()} on" * (numbers.dtype.kind == "i")
        raise ValueError(f"arr_1 of {path} should hold one class number per image, from 0 on, and {found}")
    labels = None if numbers is None else numbers.tolist()
    names = () if labels is None else _numbered(path, labels)
    return _data(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), labels, names)
