"""Registries: what exists under which name, and what a person is told of it. An entry stands beside its function:

    @SAMPLERS.register("heun", "Heun", "second order, two evaluations a step", kind="ode")
    def heun(denoise, x, sigmas, label=None, *, noise=None, project=None): ...

The command line, the app's menus and the contract tests ask the registries, so one entry in one file is in all of them. Modules
are imported when a value is asked for. Names and texts are read from the source without that, for help that starts without torch.
"""

import ast
import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from .suggest import unknown

T = TypeVar("T")
V = TypeVar("V")
PACKAGE = Path(__file__).parents[1]


@dataclass(frozen=True)
class Record(Generic[T]):
    """One entry: its ``value``, how a menu calls it, one line of help, its kind, and further facts of its registry."""

    name: str
    value: T
    label: str
    help: str = ""
    kind: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def _origin(value: Any) -> tuple[str, Any]:
    """Where a function or class was written: the same when its module is read again. Of another value that value."""
    return value.__module__, getattr(value, "__qualname__", value)


class Registry(Mapping[str, T]):
    """Values by name, in the order of ``places``: modules and rooms of the package, all modules of which may add entries.

    ``kind`` says what an entry is ("sampler"), ``variable`` what this registry is called in the code.
    """

    def __init__(self, kind: str, variable: str, *places: str):
        self.kind, self.variable, self.places = kind, variable, places
        self._records: dict[str, Record[T]] = {}
        self._complete = False

    def register(self, name: str, label: str = "", help: str = "", *, kind: str = "", **facts: Any) -> Callable[[V], V]:
        """A decorator that adds what it decorates as ``name``; raises ValueError for a name that another value has."""

        def add(entry: V) -> V:
            value = cast(Any, entry)
            old = self._records.get(name)
            if old is not None and _origin(old.value) != _origin(value):
                raise ValueError(f"there is a {self.kind} {name!r} already, {_origin(old.value)[0]}: choose another name")
            self._records[name] = Record(name, value, label or name, help, kind, facts)
            return entry

        return add

    def record(self, name: str) -> Record[T]:
        """The entry ``name``; raises ValueError with the nearest name for an unknown one."""
        if name not in self:
            raise ValueError(unknown(self.kind, name, self._records))
        return self._records[name]

    def records(self, *kinds: str) -> list[Record[T]]:
        """All entries, or those of some kinds."""
        self._load()
        return [record for record in self._records.values() if not kinds or record.kind in kinds]

    def of_kind(self, *kinds: str) -> tuple[str, ...]:
        """The names of all entries of some kinds."""
        return tuple(record.name for record in self.records(*kinds))

    def texts(self) -> dict[str, Record[None]]:
        """All entries without their values, which are not imported for it, and with those facts that are constants."""
        known = {record.name: record for path in self._files() for record in self._declared(path)}
        return known | {name: cast(Any, record) for name, record in self._records.items() if name not in known}

    def __getitem__(self, name: str) -> T:
        if name not in self._records:
            self._load()
        return self._records[name].value

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(list(self._records))

    def __len__(self) -> int:
        self._load()
        return len(self._records)

    def _load(self) -> None:
        if self._complete:
            return
        self._complete = True  # a module that is being imported may ask
        for path in self._files():
            importlib.import_module(".".join(["cmlab", *path.relative_to(PACKAGE).with_suffix("").parts]))
        order = {name: k for k, name in enumerate(self.texts())}
        self._records = dict(sorted(self._records.items(), key=lambda item: order[item[0]]))

    def _files(self) -> list[Path]:
        """The files that add entries, in the order of ``places``."""
        found = (sorted((PACKAGE / place).glob("*.py")) or [PACKAGE / f"{place}.py"] for place in self.places)
        files = (path for paths in found for path in paths)
        return [path for path in files if f"{self.variable}.register(" in path.read_text(encoding="utf-8")]

    def _declared(self, path: Path) -> Iterator[Record[None]]:
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        for call in sorted(calls, key=lambda node: node.lineno):
            if ast.unparse(call.func) != f"{self.variable}.register":
                continue
            words: dict[str, Any] = dict(zip(("name", "label", "help"), map(ast.literal_eval, call.args), strict=False))
            for keyword in call.keywords:
                with suppress(ValueError):  # a fact that is no constant is known when the module is imported
                    words[keyword.arg or ""] = ast.literal_eval(keyword.value)
            name, label = words.pop("name"), words.pop("label", "")
            yield Record(name, None, label or name, words.pop("help", ""), words.pop("kind", ""), words)


DATASETS: Registry[Any] = Registry("data set", "DATASETS", "data/toys", "data/scikit_digits", "data")
NETWORKS: Registry[Any] = Registry("network", "NETWORKS", "networks")
PRECONDS: Registry[Any] = Registry("preconditioning", "PRECONDS", "denoiser", "methods")
DISTANCES: Registry[Any] = Registry("distance", "DISTANCES", "distances", "methods")
LOSSES: Registry[Any] = Registry("loss", "LOSSES", "losses", "methods")
SAMPLERS: Registry[Any] = Registry("sampler", "SAMPLERS", "samplers", "methods")
BRIDGES: Registry[Any] = Registry("solver of one step", "BRIDGES", "samplers", "methods")
EDITS: Registry[Any] = Registry("edit", "EDITS", "editing", "methods")
EXPERIMENTS: Registry[Any] = Registry("experiment", "EXPERIMENTS", "theory/experiments")
PUBLISHED: Registry[Any] = Registry("preset", "PUBLISHED", "training/published")
CLASSIFIER_PRESETS: Registry[Any] = Registry("classifier preset", "CLASSIFIER_PRESETS", "evaluation/classifier_training")

# What a person may add to, by what it is called.
EXTENSIONS = {"data": DATASETS, "network": NETWORKS, "loss": LOSSES, "sampler": SAMPLERS, "edit": EDITS, "distance": DISTANCES}


def register(what: str, name: str, label: str = "", help: str = "", **facts: Any) -> Callable[[Any], Any]:
    """A decorator that adds an entry of one's own: ``@cmlab.register("sampler", "mine", "My sampler", kind="ode")``.

    ``what`` is one of EXTENSIONS. In a file of one's own it is read by ``cmlab --import FILE ...``. Raises ValueError for another
    ``what``, for a name that is taken, and for a network without the class of its configuration, ``config=``.
    """
    if what not in EXTENSIONS:
        raise ValueError(unknown("kind of entry", what, EXTENSIONS))
    if what == "network" and "config" not in facts:
        raise ValueError(f"the network {name!r} needs config=, the class of its configuration, a NetworkConfig")
    return EXTENSIONS[what].register(name, label, help, **facts)
