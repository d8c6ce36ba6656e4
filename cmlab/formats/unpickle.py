"""Reading torch files and pickles as data. Nothing is imported, called or built from them, so nothing in them can run."""

import mmap
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .stackmachine import MAGIC, Budget, Call, Machine, Storages, UnreadableError, numbers, read_stream, short

MAX_DIRECTORY = 4 << 20  # bytes of a zip file's directory; the largest published checkpoint has 60 kB


def read_pickle(path: Path) -> Any:
    """The content of a plain pickle file, with Calls for its objects and tensors for its tensors."""
    content = _content(path)
    # Protocol 2 writes bytes as text: they count once as text and once as the numbers of a tensor.
    return Machine(content, Budget(2 * len(content))).run()


def read_torch(path: Path) -> Any:
    """The content of a ``torch.save`` file of either format (a zip file, or the stream before PyTorch 1.6)."""
    content = _content(path)
    if bytes(content[:4]) == b"PK\x03\x04":
        return _read_zip(path)
    return read_stream(content, Budget(len(content)))


def is_torch_file(path: Path) -> bool:
    """Whether the file begins as ``torch.save`` begins one (a plain pickle does not)."""
    with open(path, "rb") as file:
        start = file.read(14)
    return start.startswith(b"PK\x03\x04") or start[2:] == b"\x8a\n" + MAGIC


def tensors(content: Any) -> dict[str, Tensor]:
    """``content`` as a state dict; raises UnreadableError unless it is a dictionary of names and tensors."""
    entries = plain_dict(content)
    if entries is None or not entries:
        raise UnreadableError("it holds no dictionary of weights")
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UnreadableError(f"its entry {short(key)} is not a named tensor")
    return entries


def plain_dict(value: Any) -> dict[Any, Any] | None:
    """The entries of a dictionary or of an object that is one underneath; None for anything else."""
    if isinstance(value, dict):
        return value
    if isinstance(value, Call) and value.path in ("collections.OrderedDict", "dnnlib.util.EasyDict"):
        return value.entries
    return None


def check_sharing(values: dict[str, Tensor], path: Path) -> None:
    """Views of one storage can claim many times what the file holds: refuse before they are copied."""
    if sum(v.numel() * v.element_size() for v in values.values()) > path.stat().st_size:
        raise UnreadableError("its tensors claim more values than the file holds")


def _content(path: Path) -> memoryview:
    """The file's bytes, mapped: what is not used is not read."""
    with open(path, "rb") as file:
        if not file.seek(0, 2):
            raise UnreadableError("it is empty")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class _Directory:
    """A file whose reads are small until ``whole`` is set: zipfile reads the directory in one piece, whatever size it claims."""

    def __init__(self, file: BinaryIO):
        self.file, self.whole = file, False
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if self.whole:
            return self.file.read(size)
        data = self.file.read(min(size, MAX_DIRECTORY + 1) if size >= 0 else MAX_DIRECTORY + 1)
        if len(data) > MAX_DIRECTORY or size > MAX_DIRECTORY:
            raise UnreadableError("its zip directory is far larger than a checkpoint's")
        return data

    def seekable(self) -> bool:
        return True


def _read_zip(path: Path) -> Any:
    with open(path, "rb") as file:
        bounded = _Directory(file)
        try:
            archive = zipfile.ZipFile(bounded)  # pyright: ignore[reportArgumentType]
            bounded.whole = True
            entries = {info.filename: info for info in archive.infolist()}
            # torch stores without compression, so nothing can be larger outside than inside.
            if any(i.compress_type != zipfile.ZIP_STORED or i.file_size != i.compress_size for i in entries.values()):
                raise UnreadableError("it is a compressed zip file, which torch never writes")
            size = path.stat().st_size
            if len(entries) != len(archive.infolist()) or sum(i.file_size for i in entries.values()) > size:
                raise UnreadableError("its zip entries claim more bytes than the file has")
            pickles = [name for name in entries if re.fullmatch(r"[^/\\]+/data\.pkl", name)]
            if len(pickles) != 1:
                raise UnreadableError("it is a zip file, but torch did not write it (no data.pkl)")
            root = pickles[0].removesuffix("data.pkl")
            if root + "byteorder" in entries and archive.read(root + "byteorder") != b"little":
                raise UnreadableError("its numbers are stored in big-endian order")

            def stored(key: str, dtype: torch.dtype, count: int) -> Tensor:
                if root + "data/" + key not in entries:
                    raise UnreadableError("a tensor's data is missing from it")
                return numbers(memoryview(archive.read(root + "data/" + key)), dtype, count)

            budget = Budget(size)
            return Machine(memoryview(archive.read(pickles[0])), budget, Storages(budget, stored)).run()
        # zipfile raises RuntimeError for encrypted entries and NotImplementedError for kinds of compression that it does not know;
        # the second is a RuntimeError too
        except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, struct.error) as error:
            raise UnreadableError(f"its zip structure is damaged or cut short ({short(error)})") from error
