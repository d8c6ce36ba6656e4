"""Torch files and pickles read as data: nothing is imported, called or built from them, so nothing in them can run.

Python's own unpickler reads them, the one that is written in Python: where it would import a name, it gets a stand-in (`Name`), and
where it would call that, the call is kept (`Call`). Tensors are made from the few calls that torch writes for them. Names that no
checkpoint needs are refused, and every length is compared with the size of the file before memory is spent.

Two shorter ways are not safe. The unpickler that is written in C grows its memo to any index that a file names, hashes whatever a
file takes as a key, and sets attributes on classes. torch.load runs TorchScript archives, whatever its pickle module.
"""

import io
import mmap
import pickle
import re
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base.text import printable

MAX_READS = 500_000  # of a pickle, one to three for each of its codes; EDM's largest network takes about half
MAX_NAME = 200
MAX_DIRECTORY = 4 << 20  # bytes of a zip file's directory; the largest published checkpoint has 60 kB
MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")

DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# What checkpoints are made of. All of it stays a name: being on the list means only that the file is not refused for it.
_EXPECTED = re.compile(
    r"collections\.(OrderedDict|defaultdict)|argparse\.Namespace|_codecs\.encode|copyreg\._reconstructor|"
    r"builtins\.(object|set|frozenset|dict|list|tuple|slice|complex|bytearray|int|float|bool|str)|"
    r"torch\.(Size|device|dtype|Tensor|b?float\d+|u?int\d+|bool|(cuda\.)?\w+Storage)|torch\.storage\.(\w+Storage|_load_from_bytes)|"
    r"torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.(modules|parameter|functional)\.[\w.]+|"
    r"torch_utils\.persistence\.\w+|dnnlib\.util\.EasyDict"
)


class UnreadableError(ValueError):
    """A file that is damaged, hostile or of another kind; the message completes "FILE cannot be read: ..."."""


# --- files ---------------------------------------------------------------------------------------------------------------


def read_pickle(path: Path) -> Any:
    """The content of a plain pickle file, with Calls for its objects and tensors for its tensors."""
    content = _content(path)
    # Protocol 2 writes bytes as text: they count once as text and once as the numbers of a tensor.
    return _Unpickler(_Source(content, _Budget(2 * len(content)))).load()


def read_torch(path: Path) -> Any:
    """The content of a ``torch.save`` file of either format (a zip file, or the stream before PyTorch 1.6)."""
    content = _content(path)
    if bytes(content[:4]) == b"PK\x03\x04":
        return _read_zip(path, len(content))
    return _read_stream(content, _Budget(len(content)))


def begins_torch_file(start: bytes) -> bool:
    """Whether the first 14 bytes of a file are those of ``torch.save`` (a plain pickle's are not)."""
    return start.startswith(b"PK\x03\x04") or start[2:14] == b"\x8a\n" + MAGIC


def tensors(content: Any) -> dict[str, Tensor]:
    """``content`` as a state dict; raises UnreadableError unless it is a dictionary of names and tensors."""
    entries = plain_dict(content)
    if not entries:
        raise UnreadableError("it holds no dictionary of weights")
    for key, value in entries.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise UnreadableError(f"its entry {short(key)} is not a named tensor")
    return entries


def plain_dict(value: Any) -> dict[Any, Any] | None:
    """The entries of a dictionary or of an object that is one underneath; None for anything else."""
    if isinstance(value, dict):
        return value
    is_one = isinstance(value, Call) and value.path in ("collections.OrderedDict", "dnnlib.util.EasyDict")
    return value.entries if is_one else None


def short(value: Any) -> str:
    """A few printable characters of a text, number or error; never the whole of something that a file chose."""
    text = str(value) if isinstance(value, str | int | float | BaseException) else type(value).__name__
    return repr(printable(" ".join(text[:1000].split()), 80))


def _content(path: Path) -> memoryview:
    """The file's bytes, mapped: what is not used is not read."""
    with open(path, "rb") as file:
        if not file.seek(0, 2):
            raise UnreadableError("it is empty")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


class _File(io.FileIO):
    """A file for zipfile, which reads a directory in one piece, whatever size that claims."""

    largest = MAX_DIRECTORY

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > self.largest:
            raise UnreadableError("its zip directory is far larger than a checkpoint's")
        return super().read(size) or b""


def _read_zip(path: Path, size: int) -> Any:
    try:
        with _File(path) as file, zipfile.ZipFile(file) as archive:
            file.largest, entries = size, archive.infolist()
            names = {entry.filename for entry in entries}
            if any(name.endswith("/constants.pkl") for name in names):
                raise UnreadableError("it is a TorchScript program, which cmlab does not run: save its state_dict")
            # torch stores without compression, so nothing can be larger outside than inside.
            if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
                raise UnreadableError("it is a compressed zip file, which torch never writes")
            if len(names) != len(entries) or sum(entry.file_size for entry in entries) > size:
                raise UnreadableError("its zip entries claim more bytes than the file has")
            pickles = [name for name in names if re.fullmatch(r"[^/\\]+/data\.pkl", name)]
            if len(pickles) != 1:
                raise UnreadableError("it is a zip file, but torch did not write it (no data.pkl)")
            root = pickles[0].removesuffix("data.pkl")
            if root + "byteorder" in names and archive.read(root + "byteorder") != b"little":
                raise UnreadableError("its numbers are stored in big-endian order")

            def stored(key: str, dtype: torch.dtype, count: int) -> Tensor:
                if f"{root}data/{key}" not in names:
                    raise UnreadableError("a tensor's data is missing from it")
                return _numbers(archive.read(f"{root}data/{key}"), dtype, count)

            return _Unpickler(_Source(memoryview(archive.read(pickles[0])), _Budget(size)), stored).load()
    # zipfile raises RuntimeError for encrypted entries and for kinds of compression that it does not know
    except (zipfile.BadZipFile, RuntimeError, EOFError, OSError, struct.error) as error:
        raise UnreadableError(f"its zip structure is damaged or cut short ({short(error)})") from error


def _read_stream(content: memoryview, budget: "_Budget") -> Any:
    """The format before zip files: a magic number, a version, the machine, the object, the storages' keys, their numbers."""
    if bytes(content[2:14]) != b"\x8a\n" + MAGIC:
        raise UnreadableError("it is not a torch file")
    source = _Source(content, budget)
    _Unpickler(source).load()  # the magic number again, now as a pickle
    if _Unpickler(source).load() != 1001:
        raise UnreadableError("it is a torch file of an unknown version")
    system = _Unpickler(source).load()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UnreadableError("its numbers are not stored in little-endian order")
    # The numbers follow the object, so the tensors get room that is filled afterwards.
    unpickler = _Unpickler(source, lambda _, dtype, count: torch.empty(count, dtype=dtype))
    result, rooms, keys = unpickler.load(), unpickler.storages, _Unpickler(source).load()
    if not isinstance(keys, list) or any(not isinstance(k, str) for k in keys) or set(keys) != set(rooms):
        raise UnreadableError("its list of storages does not fit its tensors")
    for key in keys:
        room = rooms[key]
        if struct.unpack("<q", source.take(8)) != (len(room),):
            raise UnreadableError("a storage has another length than its tensor claims")
        room.copy_(_numbers(source.take(len(room) * room.element_size()), room.dtype, len(room)))
    return result


def _numbers(data: bytes | memoryview, dtype: torch.dtype, count: int) -> Tensor:
    if len(data) != count * dtype.itemsize:
        raise UnreadableError("a tensor's data is longer or shorter than it claims")
    return torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)


# --- pickles -------------------------------------------------------------------------------------------------------------


@dataclass
class _Budget:
    """What one file may cost, pickles inside pickles included: ``size`` bytes of tensors, and MAX_READS."""

    size: int
    reads: int = MAX_READS

    def spend(self, size: int) -> None:
        self.size -= size
        if self.size < 0:
            raise UnreadableError("its tensors claim more bytes than the file has")


class _Source:
    """The file that an unpickler reads: bytes that are there, in a number of reads that a checkpoint needs."""

    def __init__(self, data: memoryview, budget: _Budget):
        self.data, self.budget, self.at = data, budget, 0

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise UnreadableError("it is cut short, or claims more bytes than it has")
        self.at += count
        return self.data[self.at - count : self.at]

    def read(self, count: int) -> bytes:
        self.budget.reads -= 1
        if self.budget.reads < 0:
            raise UnreadableError("it has far more parts than a checkpoint")
        return bytes(self.take(count))

    def readline(self) -> bytes:
        end = bytes(self.data[self.at : self.at + MAX_NAME]).find(b"\n")
        if end < 0:
            raise UnreadableError("it is no pickle that torch or NumPy writes")
        return self.read(end + 1)


@dataclass(eq=False, repr=False)
class Call:
    """What a pickle would have called, with what it would have put into the result."""

    path: str
    args: Any
    state: Any = None
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)

    def append(self, item: Any) -> None:
        self.items.append(item)


@dataclass(frozen=True)
class Name:
    """What a pickle would have imported. To call it makes a tensor or a Call."""

    path: str
    budget: _Budget

    def __call__(self, *args: Any) -> Any:
        if self.path in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
            return _tensor(*args[:4])
        if self.path in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
            return _exactly(args[0], Tensor)
        if self.path == "torch._tensor._rebuild_from_type_v2":
            return _exactly(args[0], Name)(*_exactly(args[2], tuple))
        if self.path == "torch.storage._load_from_bytes":
            return _exactly(_read_stream(memoryview(args[0]), self.budget), Tensor)
        if self.path == "_codecs.encode":  # how protocol 2 writes bytes
            if args[1:] != ("latin1",):
                raise UnreadableError("it encodes text in an unknown way")
            self.budget.spend(len(args[0]))
            return _exactly(args[0], str).encode("latin1")
        return Call(self.path, args)


def _exactly(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise UnreadableError("it has something else where a tensor should be")
    return value


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    """A view of ``storage`` (1-d). The library checks no view against its storage before use, so it is done here."""
    values = _exactly(storage, Tensor)
    if not (isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 8):
        raise UnreadableError("a tensor in it has no proper shape")
    if any(type(n) is not int or not 0 <= n < 1 << 48 for n in (offset, *size, *stride)):
        raise UnreadableError("a tensor in it has an impossible shape")
    count = 1
    for n in size:
        count *= n
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if values.dim() != 1 or count > len(values) or (count and last >= len(values)):
        raise UnreadableError("a tensor in it claims more values than its data has")
    return values.as_strided(size, stride, offset)


class _Codes(dict[int, Callable[[Any], None]]):
    def __missing__(self, code: int) -> Callable[[Any], None]:
        raise UnreadableError("it is not a pickle of protocol 2 or later")


_PYTHONS: Any = pickle._Unpickler  # pyright: ignore[reportAttributeAccessIssue]
# The codes of protocols 2 to 5 that are taken as they are (Python's Lib/pickletools.py documents each): no extensions, no data out
# of band, no text forms of protocol 0.
_PLAIN = b"\x80N\x88\x89JKMG\x8a\x8bX\x8c\x8dTU]})t\x85\x86\x87l(0aeqr\x94hjc\x93RQ."


class _Unpickler(_PYTHONS):
    """Python's unpickler without its dangerous codes; ``make(key, dtype, count)`` gives the storages that lie beside the pickle."""

    dispatch = _Codes({code: _PYTHONS.dispatch[code] for code in _PLAIN})

    def __init__(self, source: _Source, make: Callable[[str, torch.dtype, int], Tensor] | None = None):
        super().__init__(source, encoding="latin1")
        self.source, self.make = source, make
        self.storages: dict[str, Tensor] = {}

    def load(self) -> Any:
        """The next pickle's object. Raises UnreadableError for all that does not belong in a checkpoint."""
        try:
            return super().load()
        except UnreadableError:
            raise
        except Exception as error:  # a damaged pickle can fail in any way
            raise UnreadableError(f"its pickle is damaged ({type(error).__name__})") from error

    def find_class(self, module: str, name: str) -> Name:
        # Python 2's names for the same things.
        path = f"{module}.{name}".replace("__builtin__.", "builtins.", 1).replace("copy_reg.", "copyreg.", 1)
        if not _EXPECTED.fullmatch(path):
            raise UnreadableError(f"it asks for {short(path)}, which no checkpoint needs; nothing was run")
        return Name(path, self.source.budget)

    def persistent_load(self, pid: Any) -> Tensor:
        if self.make is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise UnreadableError("it refers to data outside the file")
        kind, key, count = pid[1], pid[2], pid[4]
        dtype = DTYPES.get(kind.path.rsplit(".", 1)[-1]) if isinstance(kind, Name) else None
        if dtype is None or not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise UnreadableError("it has a tensor of an unknown kind")
        if len(pid) > 5 and pid[5] is not None:
            raise UnreadableError("it has a view of a storage (written before PyTorch 0.4): save it again with a later one")
        if key not in self.storages:
            self.source.budget.spend(count * dtype.itemsize)
            self.storages[key] = self.make(key, dtype, count)
        if self.storages[key].dtype != dtype or len(self.storages[key]) != count:
            raise UnreadableError("two tensors disagree about the data that they share")
        return self.storages[key]

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, Tensor):  # attributes of a tensor or parameter do not matter here
            raise UnreadableError("it sets attributes of a plain value")

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def load_setitems(self) -> None:
        self._fill(self.pop_mark())

    def _fill(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Call) else target
        if type(entries) is not dict:
            raise UnreadableError("it fills a value that is no container")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys can take for ever to hash (nested tuples) or to compare (long numbers of one hash).
            if not isinstance(key, str) and not (isinstance(key, int) and abs(key) < 1 << 32):
                raise UnreadableError("a dictionary in it has keys that are neither text nor numbers of ordinary size")
            entries[key] = value

    def load_bytes(self, layout: str) -> None:
        """Bytes stay where they are in the file."""
        self.append(self.source.take(*struct.unpack(layout, self.read(struct.calcsize(layout)))))

    def load_frame(self) -> None:
        """A frame is only a hint how much to read at once."""
        if struct.unpack("<Q", self.read(8))[0] > len(self.source.data) - self.source.at:
            raise UnreadableError("it is cut short, or claims more bytes than it has")

    dispatch |= {
        pickle.BUILD[0]: load_build,
        pickle.SETITEM[0]: load_setitem,
        pickle.SETITEMS[0]: load_setitems,
        pickle.FRAME[0]: load_frame,
        pickle.NEWOBJ[0]: dispatch[pickle.REDUCE[0]],  # a stand-in is no class
        # Sets stay lists: their elements are not hashed.
        pickle.EMPTY_SET[0]: dispatch[pickle.EMPTY_LIST[0]],
        pickle.FROZENSET[0]: dispatch[pickle.LIST[0]],
        pickle.ADDITEMS[0]: dispatch[pickle.APPENDS[0]],
        pickle.SHORT_BINBYTES[0]: partial(load_bytes, layout="<B"),
        pickle.BINBYTES[0]: partial(load_bytes, layout="<I"),
        pickle.BINBYTES8[0]: partial(load_bytes, layout="<Q"),
        pickle.BYTEARRAY8[0]: partial(load_bytes, layout="<Q"),
    }
