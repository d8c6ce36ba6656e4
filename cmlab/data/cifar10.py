"""CIFAR-10 from its official archive of pickles, which are read without executing them (Krizhevsky, 2009)."""

import hashlib
import io
import pickle
import shutil
import tarfile
import urllib.request
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from ..base.files import beside, user_path
from ..base.registry import DATASETS
from ..base.suggest import check_choice
from .pictures import data_folder, load_pictures
from .sets import ImageData, PixelData

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
ARCHIVE, FOLDER = "cifar-10-python.tar.gz", "cifar-10-batches-py"
JPEG = "cifar10-jpeg.tar.xz"  # the same pictures as files, a tenth of the size: {train,test}/CLASS/*.jpg
BATCHES = {"train": tuple(f"data_batch_{k}" for k in range(1, 6)), "test": ("test_batch",)}
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Holds a folder of pictures for cifar10, in folders of their classes.
EXAMPLES = Path(__file__).parents[1] / "pretrained" / "examples"
_TIMEOUT = 30.0  # seconds without an answer
_MAX_BATCH = 2**26  # bytes of one pickle; the real ones have 31 million


def download_cifar10(folder: str | Path | None = None) -> Path:
    """Fetch the official archive (170 MB) into ``folder``, by default `data_folder`; returns its path.

    Raises OSError that says what to put where when it cannot be fetched, ValueError when what arrives has another md5.
    """
    target = user_path(folder or data_folder()) / ARCHIVE
    with beside(target) as part:
        try:
            with urllib.request.urlopen(URL, timeout=_TIMEOUT) as answer, part.open("wb") as file:
                shutil.copyfileobj(answer, file)
        except (OSError, HTTPException) as error:  # urllib's are OSErrors, a broken transfer is not
            way = f"fetch {ARCHIVE} where there is a network and put it in {target.parent}, or name its folder with CMLAB_DATA"
            raise OSError(f"{URL} could not be fetched ({error}): {way}") from error
        _check_md5(part)
    return target


def _check_md5(path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != MD5:
        raise ValueError(f"{path} has the md5 {found}, the official {ARCHIVE} {MD5}: fetch it again from {URL}")


def is_cifar10(path: Path) -> bool:
    """Whether ``path`` is the archive, its unpacked folder, or a folder that holds one of them."""
    if path.is_dir():
        return any(p.is_file() for p in (path / "batches.meta", path / FOLDER / "batches.meta", path / ARCHIVE))
    try:
        with tarfile.open(path) as archive:
            first = archive.next()
            return first is not None and first.name.removeprefix("./").startswith(FOLDER)
    except (tarfile.TarError, OSError, EOFError):
        return False


def _title() -> str:
    """CIFAR-10 (JPEG) where the archive of JPEGs is what is loaded: figures on it are not comparable with published ones."""
    folder = data_folder()
    official = any((folder / file).exists() for file in (ARCHIVE, f"{FOLDER}/batches.meta", "batches.meta"))
    return "CIFAR-10 (JPEG)" if not official and (folder / JPEG).is_file() else "CIFAR-10"


@DATASETS.register(
    "cifar10",
    "CIFAR-10",
    "60,000 photographs of 32 x 32 pixels",
    kind="file",
    title=_title,
    shape=(3, 32, 32),
    class_names=CIFAR10_CLASSES,
)
def load_cifar10(path: str | Path | None = None, *, split: Literal["train", "test"] | None = None) -> PixelData:
    """CIFAR-10's 50,000 training images, or 10,000 for ``split="test"``: uint8 (N, 3, 32, 32), ten classes.

    ``path`` is the official archive, its unpacked folder, or a folder with either, or with the archive of JPEGs; None looks in
    `data_folder`. Raises FileNotFoundError that says what to put where, ValueError for a damaged archive.
    """
    check_choice("split", split or "train", BATCHES)
    folder = data_folder() if path is None else user_path(path)
    choices = [folder] if folder.is_file() else [folder / ARCHIVE, folder / FOLDER, folder]
    for choice in choices:
        if choice.is_file() or (choice / "batches.meta").is_file():
            return _load(choice, split or "train", choice.stat().st_mtime_ns)
    if (jpegs := folder / JPEG).is_file():
        return load_pictures(jpegs, split=split or "train")
    way = "(python -c 'import cmlab.data.cifar10 as c; c.download_cifar10()' does), or name the folder that has it with CMLAB_DATA"
    raise FileNotFoundError(f"CIFAR-10 is not in {folder}: put {ARCHIVE} from {URL} there {way}")


@lru_cache(maxsize=2)
def _load(path: Path, split: str, _stamp: int) -> PixelData:
    wanted = ("batches.meta", *BATCHES[split])
    folder = path.is_dir()
    files = {p.name: p.read_bytes() for name in wanted if (p := path / name).is_file()} if folder else _unpack(path, wanted)
    if missing := [name for name in wanted if name not in files]:
        raise ValueError(f"{path} lacks {', '.join(missing)}: fetch {ARCHIVE} again from {URL}")
    content = {name: _literal(data, f"{name} of {path}") for name, data in files.items()}
    try:
        pixels = [content[name][b"data"].array().reshape(-1, 3, 32, 32) for name in BATCHES[split]]
        labels = torch.tensor([label for name in BATCHES[split] for label in content[name][b"labels"]], dtype=torch.int64)
        class_names = tuple(name.decode() for name in content["batches.meta"][b"label_names"])
        whole = np.concatenate(pixels)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} does not hold CIFAR-10's python version: {error!r}") from error
    if len(whole) != len(labels) or not bool(((labels >= 0) & (labels < len(class_names))).all()):
        raise ValueError(f"{path} does not pair every image with a class: {len(whole)} images, {len(labels)} labels")
    return PixelData(whole, labels, class_names)


def _unpack(path: Path, wanted: tuple[str, ...]) -> dict[str, bytes]:
    _check_md5(path)
    files = {}
    with tarfile.open(path) as archive:
        for member in archive:
            name = member.name.rpartition("/")[2]
            if name in wanted and member.isfile() and member.size <= _MAX_BATCH:
                file = archive.extractfile(member)
                assert file is not None
                files[name] = file.read()
    return files


class _Array:
    """What numpy's pickled state says, without numpy's own unpickling."""

    state: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        _, shape, dtype, fortran, raw = self.state
        if not isinstance(dtype, _Dtype) or dtype.code not in (b"u1", "u1") or fortran or not isinstance(raw, bytes):
            raise TypeError("images should be uint8 in C order")
        return np.frombuffer(raw, np.uint8).reshape(shape)


class _Dtype:
    def __init__(self, code=None, *_):
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        """Byte order and the like say nothing about bytes."""


_STANDINS = {"ndarray": _Array, "dtype": _Dtype, "_reconstruct": lambda *_: _Array()}


class _Literal(pickle.Unpickler):
    """Builds dicts, lists, numbers, bytes and the above stand-ins for numpy arrays; everything else is refused."""

    def find_class(self, module: str, name: str):
        if module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") and name in _STANDINS:
            return _STANDINS[name]
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which CIFAR-10 has no use for")


def _literal(data: bytes, name: str) -> dict:
    try:
        content = _Literal(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"{name} is damaged or not CIFAR-10's: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name} should hold a dict, and holds a {type(content).__name__}")
    return content


@DATASETS.register("cifar10-examples", help="36 test images of CIFAR-10, to edit", kind="images")
@lru_cache(maxsize=1)
def cifar10_examples() -> ImageData:
    """36 test images of CIFAR-10, twelve automobiles, horses and ships each: (36, 3, 32, 32). To edit, too few to train on."""
    data = load_pictures(EXAMPLES / "cifar10", cache=False)
    return ImageData(data.x0, data.label, data.class_names)
