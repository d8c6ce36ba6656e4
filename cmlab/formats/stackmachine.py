"""Pickles as data: the stack machine that a pickle is a program for, without its dangerous part.

Where Python would import a name, the name is kept (``Name``), and where Python would call it, the call is kept (``Call``). Tensors
are made from the few calls that torch writes for them. Names that no checkpoint needs are refused, so that a hostile file is an
error and not a silence, and every length, count and size is compared with the size of the file before memory is spent.
"""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

MAX_STEPS = 250_000  # of the stack machine; EDM's largest network takes about half
MAX_NAME = 200

_DTYPES = {
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


@dataclass(frozen=True)
class Name:
    """What a pickle would have imported."""

    path: str


@dataclass(eq=False, repr=False)
class Call:
    """What a pickle would have called, with what it would have put into the result."""

    path: str
    args: Any
    state: Any = None
    items: list[Any] = field(default_factory=list)
    entries: dict[Any, Any] = field(default_factory=dict)


@dataclass
class Budget:
    """What one file may cost, pickles inside pickles included: ``size`` bytes of tensors, and MAX_STEPS."""

    size: int
    steps: int = MAX_STEPS

    def spend(self, size: int) -> None:
        self.size -= size
        if self.size < 0:
            raise UnreadableError("its tensors claim more bytes than the file has")


MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")


def read_stream(content: memoryview, budget: Budget) -> Any:
    """The format before zip files: a magic number, a version, the machine, the object, the storages' keys, their numbers."""
    machine = Machine(content, budget)
    if bytes(content[2:14]) != b"\x8a\n" + MAGIC:
        raise UnreadableError("it is not a torch file")
    machine.run()  # the magic number again, now as a pickle
    if machine.run() != 1001:
        raise UnreadableError("it is a torch file of an unknown version")
    system = machine.run()
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise UnreadableError("its numbers are not stored in little-endian order")
    # The numbers follow the object, so the tensors get room that is filled afterwards.
    machine.storages = Storages(budget, lambda key, dtype, count: torch.empty(count, dtype=dtype))
    result = machine.run()
    rooms, machine.storages = machine.storages.known, None
    keys = machine.run()
    if not isinstance(keys, list) or any(not isinstance(k, str) for k in keys) or set(keys) != set(rooms):
        raise UnreadableError("its list of storages does not fit its tensors")
    for key in keys:
        room = rooms[key]
        if machine.number("<q") != len(room):
            raise UnreadableError("a storage has another length than its tensor claims")
        room.copy_(numbers(machine.take(len(room) * room.element_size()), room.dtype, len(room)))
    return result


def numbers(data: memoryview, dtype: torch.dtype, count: int) -> Tensor:
    if len(data) != count * dtype.itemsize:
        raise UnreadableError("a tensor's data is longer or shorter than it claims")
    return torch.frombuffer(bytearray(data), dtype=dtype) if count else torch.empty(0, dtype=dtype)


class Storages:
    """The data that tensors share, by key; ``make(key, dtype, count)`` is asked once for each, within the budget."""

    def __init__(self, budget: Budget, make: Callable[[str, torch.dtype, int], Tensor]):
        self.budget, self.make = budget, make
        self.known: dict[str, Tensor] = {}

    def __call__(self, key: str, dtype: torch.dtype, count: int) -> Tensor:
        if key not in self.known:
            self.budget.spend(count * dtype.itemsize)
            self.known[key] = self.make(key, dtype, count)
        if self.known[key].dtype != dtype or len(self.known[key]) != count:
            raise UnreadableError("two tensors disagree about the data that they share")
        return self.known[key]


_MARK = object()
_T = TypeVar("_T")


class Machine:
    """Runs one pickle after another from ``data``; ``storages`` gives the tensors that lie beside the pickle."""

    def __init__(self, data: memoryview, budget: Budget, storages: Storages | None = None):
        self.data, self.at, self.budget, self.storages = data, 0, budget, storages

    def take(self, count: int) -> memoryview:
        if not 0 <= count <= len(self.data) - self.at:
            raise UnreadableError("it is cut short, or claims more bytes than it has")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, layout: str) -> int:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def text(self, layout: str, encoding: str = "utf-8") -> str:
        return str(self.take(self.number(layout)), encoding, "surrogatepass" if encoding == "utf-8" else "strict")

    def line(self) -> str:
        end = bytes(self.data[self.at : self.at + MAX_NAME]).find(b"\n")
        if end < 0:
            raise UnreadableError("it is no pickle that torch or NumPy writes")
        return str(self.take(end + 1)[:-1], "utf-8")

    def run(self) -> Any:
        """The object of the next pickle. Raises UnreadableError for all that does not belong in a checkpoint."""
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        try:
            while (code := self.data[self.at]) != _STOP:  # past the end: an IndexError
                self.at += 1
                self.budget.steps -= 1
                if self.budget.steps < 0:
                    raise UnreadableError("it has far more parts than a checkpoint")
                if code not in _CODES:
                    raise UnreadableError("it is not a pickle of protocol 2 or later")
                _CODES[code](self)
            self.at += 1
            return self.pop()
        except (LookupError, TypeError, UnicodeError, OverflowError) as error:
            raise UnreadableError(f"its pickle is damaged ({type(error).__name__})") from error

    # What the codes do; each pushes or pops.

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise IndexError
        return value

    def pop_to_mark(self) -> list[Any]:
        stack, start = self.stack, len(self.stack) - 1
        while stack[start] is not _MARK:  # runs off the lower end with an IndexError
            start -= 1
            if start < 0:
                raise IndexError
        items = stack[start + 1 :]
        del stack[start:]
        return items

    def pop_n(self, n: int) -> tuple[Any, ...]:
        return tuple(reversed([self.pop() for _ in range(n)]))

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def name(self, module: Any, name: Any) -> None:
        path = f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else ""
        # Python 2's names for the same things.
        path = path.replace("__builtin__.", "builtins.", 1).replace("copy_reg.", "copyreg.", 1)
        if not _EXPECTED.fullmatch(path):
            raise UnreadableError(f"it asks for {short(path)}, which no checkpoint needs; nothing was run")
        self.push(Name(path))

    def call(self, target: Any, args: Any) -> None:
        if not isinstance(target, Name) or not isinstance(args, tuple):
            raise UnreadableError("it calls what is not a plain function")
        self.push(_made(target.path, args, self.budget))

    def build(self) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, Tensor):  # attributes of a tensor or parameter do not matter here
            raise UnreadableError("it sets attributes of a plain value")

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        (target.items if isinstance(target, Call) else _exactly(target, list)).extend(items)

    def update(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Call) else _exactly(target, dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys (nested tuples, say) can take for ever to hash.
            if not isinstance(key, str | int):
                raise UnreadableError("a dictionary in it has keys that are neither text nor numbers")
            entries[key] = value

    def insert(self, items: list[Any]) -> None:
        target = self.stack[-1]
        (target.items if isinstance(target, Call) else _exactly(target, _Set)).extend(items)

    def persistent(self) -> None:
        pid = self.pop()
        if self.storages is None or not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            raise UnreadableError("it refers to data outside the file")
        kind, key, count = pid[1], pid[2], pid[4]
        dtype = _DTYPES.get(kind.path.rsplit(".", 1)[-1]) if isinstance(kind, Name) else None
        if dtype is None or not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise UnreadableError("it has a tensor of an unknown kind")
        if len(pid) > 5 and pid[5] is not None:
            raise UnreadableError("it has a view of a storage (written before PyTorch 0.4): save it again with a later one")
        self.push(self.storages(key, dtype, count))


class _Set(list):
    """Elements of a set, unhashed."""


def _exactly(value: Any, kind: type[_T]) -> _T:
    if type(value) is not kind:
        raise UnreadableError("it fills a value that is no container")
    return value


def _made(path: str, args: tuple[Any, ...], budget: Budget) -> Any:
    """The tensor that a call makes, or the Call itself."""
    if path in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor"):
        return _tensor(*args[:4])
    if path in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        return _as_tensor(args[0])
    if path == "torch._tensor._rebuild_from_type_v2":
        function, _, inner = args[:3]
        return _made(_rebuilder(function), _exactly(inner, tuple), budget)
    if path == "torch.storage._load_from_bytes":
        if len(args) != 1 or not isinstance(args[0], bytes | memoryview):
            raise UnreadableError("a tensor's data in it is no bytes")
        return _as_tensor(read_stream(memoryview(args[0]), budget))
    if path == "_codecs.encode":  # how protocol 2 writes bytes
        if len(args) != 2 or not isinstance(args[0], str) or args[1] != "latin1":
            raise UnreadableError("it encodes text in an unknown way")
        budget.spend(len(args[0]))
        return args[0].encode("latin1")
    return Call(path, args)


def _rebuilder(value: Any) -> str:
    if not isinstance(value, Name) or not value.path.startswith("torch._utils._rebuild_"):
        raise UnreadableError("it rebuilds a tensor in an unknown way")
    return value.path


def _as_tensor(value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        raise UnreadableError("it has something else where a tensor should be")
    return value


def _tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    """A view of ``storage`` (1-d). The library checks no view against its storage before use, so it is done here."""
    values = _as_tensor(storage)
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


def short(value: Any) -> str:
    """A few printable characters of a text, number or error; never the whole of something that a file chose."""
    text = str(value) if isinstance(value, str | int | float | BaseException) else type(value).__name__
    text = " ".join(text[: 2 * MAX_NAME].split())
    text = "".join(c if c.isprintable() else "?" for c in text)
    return repr(text) if len(text) < 80 else repr(text[:77] + "...")


def _global_on_stack(m: Machine) -> None:
    m.name(*m.pop_n(2))


def _to_top(count: int) -> Callable[[Machine], None]:
    return lambda m: m.push(m.pop_n(count))


def _const(make: Callable[[], Any]) -> Callable[[Machine], None]:
    return lambda m: m.push(make())


def _long(m: Machine, layout: str) -> None:
    m.push(int.from_bytes(m.take(min(m.number(layout), 1 << 12)), "little", signed=True))


def _skip_frame(m: Machine) -> None:
    if m.number("<Q") > len(m.data) - m.at:
        raise UnreadableError("it is cut short, or claims more bytes than it has")


def _protocol(m: Machine) -> None:
    if not 2 <= m.number("B") <= 5:
        raise UnreadableError("it is not a pickle of protocol 2 to 5")


_STOP = ord(".")
# The codes of protocols 2 to 5 (Python's Lib/pickletools.py documents each), without extensions, out-of-band data and
# the text forms of protocol 0.
_CODES: dict[int, Callable[[Machine], None]] = {
    0x80: _protocol,
    0x95: _skip_frame,
    ord("N"): _const(lambda: None),
    0x88: _const(lambda: True),
    0x89: _const(lambda: False),
    ord("]"): _const(list),
    ord("}"): _const(dict),
    ord(")"): _const(tuple),
    0x8F: _const(_Set),
    ord("("): _const(lambda: _MARK),
    ord("K"): lambda m: m.push(m.number("B")),
    ord("M"): lambda m: m.push(m.number("<H")),
    ord("J"): lambda m: m.push(m.number("<i")),
    ord("G"): lambda m: m.push(m.number(">d")),
    0x8A: lambda m: _long(m, "B"),
    0x8B: lambda m: _long(m, "<I"),
    ord("X"): lambda m: m.push(m.text("<I")),
    0x8C: lambda m: m.push(m.text("B")),
    0x8D: lambda m: m.push(m.text("<Q")),
    ord("T"): lambda m: m.push(m.text("<I", "latin-1")),
    ord("U"): lambda m: m.push(m.text("B", "latin-1")),
    ord("B"): lambda m: m.push(m.take(m.number("<I"))),
    ord("C"): lambda m: m.push(m.take(m.number("B"))),
    0x8E: lambda m: m.push(m.take(m.number("<Q"))),
    0x96: lambda m: m.push(m.take(m.number("<Q"))),
    ord("q"): lambda m: m.remember(m.number("B")),
    ord("r"): lambda m: m.remember(m.number("<I")),
    0x94: lambda m: m.remember(len(m.memo)),
    ord("h"): lambda m: m.push(m.memo[m.number("B")]),
    ord("j"): lambda m: m.push(m.memo[m.number("<I")]),
    0x85: _to_top(1),
    0x86: _to_top(2),
    0x87: _to_top(3),
    ord("t"): lambda m: m.push(tuple(m.pop_to_mark())),
    ord("l"): lambda m: m.push(m.pop_to_mark()),
    0x91: lambda m: m.push(_Set(m.pop_to_mark())),
    ord("a"): lambda m: m.extend([m.pop()]),
    ord("e"): lambda m: m.extend(m.pop_to_mark()),
    ord("s"): lambda m: m.update(list(m.pop_n(2))),
    ord("u"): lambda m: m.update(m.pop_to_mark()),
    0x90: lambda m: m.insert(m.pop_to_mark()),
    ord("0"): lambda m: m.pop(),
    ord("c"): lambda m: m.name(m.line(), m.line()),
    0x93: _global_on_stack,
    ord("R"): lambda m: m.call(*m.pop_n(2)),
    0x81: lambda m: m.call(*m.pop_n(2)),
    ord("b"): lambda m: m.build(),
    ord("Q"): lambda m: m.persistent(),
}
