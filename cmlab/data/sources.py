"""Where encoded pictures lie: folders, zips, tars and lmdbs, each as names and a function that reads one. It decodes nothing."""

import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import NamedTuple

PICTURES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff"),
    *(".jp2", ".tga", ".mpo"),
)
SPLITS = {"train": ("train",), "test": ("test", "val", "valid", "validation")}
MAX_BYTES = 2**28  # of one encoded picture
MAX_TAR_BYTES = 2**33  # of all pictures of a tar, which are held in memory while they are decoded


class Source(NamedTuple):
    """Encoded pictures: their names (sorted, with "/"), a reader, what EDM's ``dataset.json`` says, {} for "no labels", and the
    names of other files that lie among them."""

    names: list[str]
    read: Callable[[str], bytes]
    labels: dict[str, int] | None = None
    skipped: Sequence[str] = ()


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _belongs(name: str) -> bool:
    return (name.lower().endswith(PICTURES) and not _is_hidden(name)) or PurePosixPath(name).name == "dataset.json"


def open_source(path: Path) -> Source:
    """The pictures of ``path``; raises ValueError for a file that is damaged."""
    if (path / "data.mdb").is_file():
        return _lmdb(path)
    if path.is_dir():
        return _files(_walk(path), lambda name: _read_file(path / name))
    return _zip(path) if path.suffix == ".zip" else _tar(path)


def _read_file(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{file} cannot be read: {error}") from error


def _files(names: Iterable[str], read: Callable[[str], bytes]) -> Source:
    """A tree of files; folders that hold everything are no classes and are cut off."""
    names = list(names)
    cut, kept = "", [name for name in names if _belongs(name)]
    skipped = sorted(name for name in names if not _belongs(name) and not _is_hidden(name))
    while len(tops := {name.partition("/")[0] for name in kept}) == 1 and "/" in kept[0]:
        top = tops.pop()
        if any(top in folders for folders in SPLITS.values()):
            break
        cut, kept = f"{cut}{top}/", [name.removeprefix(f"{top}/") for name in kept]
    labels = _json_labels(read(cut + "dataset.json")) if "dataset.json" in kept else None
    pictures = sorted(name for name in kept if name.lower().endswith(PICTURES))
    return Source(pictures, lambda name: read(cut + name), labels, skipped)


def _json_labels(data: bytes) -> dict[str, int]:
    try:
        labels = {str(name): label for name, label in json.loads(data)["labels"] or ()}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError('dataset.json should hold {"labels": [[file name, class number], ...]} or {"labels": null}') from error
    if not all(type(label) is int and label >= 0 for label in labels.values()):
        raise ValueError("dataset.json should give every picture one class number of at least 0")
    return labels


def _zip(path: Path) -> Source:
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no zip archive, or a damaged one") from error
    sizes = {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}

    def read(name: str) -> bytes:
        if sizes[name] > MAX_BYTES:
            raise ValueError(f"{name} in {path} unpacks to {sizes[name]:,} bytes: more than a picture has")
        try:
            return archive.read(name)  # never more than file_size bytes
        except Exception as error:  # of zipfile or of any of its codecs
            raise ValueError(f"{name} in {path} cannot be unpacked: {error}") from error

    return _files(sizes, read)


def _tar(path: Path) -> Source:
    names, content, total = [], {}, 0
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                names += [name] * member.isfile()
                if member.isfile() and _belongs(name):
                    total += member.size
                    if total > MAX_TAR_BYTES:
                        raise ValueError(f"{path} unpacks to more than {MAX_TAR_BYTES:,} bytes: unpack it and name the folder")
                    file = archive.extractfile(member)
                    assert file is not None
                    content[name] = file.read()
    except ValueError:
        raise
    except Exception as error:  # of tarfile or of any of its codecs
        raise ValueError(f"{path} is no tar archive, or a damaged one: {error}") from error
    return _files(names, content.__getitem__)


def _lmdb(path: Path) -> Source:
    try:
        import lmdb  # an extra
    except ImportError as error:
        raise ImportError(f"{path} is an lmdb, as LSUN comes: pip install lmdb") from error
    try:
        env = lmdb.open(str(path), readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise ValueError(f"{path} is no lmdb, or a damaged one: {error}") from error
    with env.begin() as transaction, closing(transaction.cursor()) as cursor:
        names = [key.hex() for key in cursor.iternext(values=False)]

    def read(name: str) -> bytes:
        with env.begin() as transaction:
            value = transaction.get(bytes.fromhex(name))
        if value is None:
            raise ValueError(f"{path} has lost its entry {name}: copy it again")
        return value

    return Source(names, read)


def _walk(path: Path) -> list[str]:
    """All files below ``path``, through links too, as paths from there; ValueError for a picture that is no file."""
    found: list[Path] = []
    above: dict[str, frozenset[str]] = {}  # for each folder where it and those that hold it really are
    for folder, folders, names in os.walk(path, followlinks=True):
        way, real = above.get(os.path.dirname(folder), frozenset()), os.path.realpath(folder)
        if real in way:  # through a link to a folder that holds the link
            folders.clear()
            continue
        above[folder] = way | {real}
        found += [Path(folder, name) for name in names]
    if lost := next((p for p in found if _belongs(p.name) and not p.is_file()), None):
        raise ValueError(f"{lost} is no file, or a link that leads nowhere: remove it")
    return sorted(p.relative_to(path).as_posix() for p in found)


def stamp(path: Path) -> list:
    """What changes when the pictures do: names, sizes and times."""
    data = path / "data.mdb"
    files = [path] if path.is_file() else [data] if data.is_file() else [path / name for name in _walk(path) if _belongs(name)]
    return [(str(p), (stat := p.stat()).st_size, stat.st_mtime_ns) for p in files]
