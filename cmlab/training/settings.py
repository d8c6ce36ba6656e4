"""What a run leaves beside its states: its options, which can be given again as a file or as words, and its log as a table."""

import csv
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..base.files import user_path, write_whole
from ..base.registry import NETWORKS

FILE, LOG = "config.toml", "log.csv"
COLUMNS = ("step", "loss", "lr", "images_per_s", "skipped", "fd")


def as_words(options: Mapping[str, Any]) -> list[str]:
    """Options by name, those of a part of the configuration with dots, as the command line says them."""
    out: list[str] = []
    for name, value in options.items():
        name = name.replace("_", "-")
        where, dot, last = name.rpartition(".")
        if isinstance(value, bool):
            out += [f"--{name}" if value else f"--{where}{dot}no-{last}"]
        else:
            out += [f"--{name}", *map(str, value)] if isinstance(value, list | tuple) else [f"--{name}={value}"]
    return out


def said(options: Mapping[str, Any], default: Mapping[str, Any], every: bool = False) -> dict[str, Any]:
    """Of options as `flatten` makes them, those that differ from ``default``, or ``every`` one, as far as words can say them.

    Of a part that is a class its fields can be said, and which class it is of the network alone.
    """
    parts = {name.rpartition(".")[0] for name in options}
    networks = {record.facts["config"].__name__: record.name for record in NETWORKS.records()}
    out: dict[str, Any] = {}
    for name, value in options.items():
        new = default.get(name) != value or (name.startswith("network.") and "network" in out)
        if name in parts:
            if name == "network" and value in networks and (new or every):
                out[name] = networks[value]
        elif new or (every and value is not None):
            out[name] = value
    return out


def write_config(path: Path, preset: str, options: Mapping[str, Any]) -> None:
    """Write options, as `said` gives them, so that `read_config` reads them."""
    tables: dict[str, dict[str, Any]] = {"": {"preset": preset}}
    for name, value in options.items():
        where, _, last = name.rpartition(".")
        if name == "network":
            where, last = "network", "type"
        tables.setdefault(where, {})[last] = value
    lines = ["# This run again: cmlab train --config FILE. Options of the command line win."]
    for where, values in sorted(tables.items()):  # a part before its own parts
        lines += ["", f"[{where}]"] if where else []
        lines += [f"{name} = {_toml(value)}" for name, value in values.items()]
    write_whole(path, ("\n".join(lines) + "\n").encode())


def _toml(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(str(value) if value is None or isinstance(value, Path) else value, ensure_ascii=False)


def read_config(name: str) -> tuple[str, list[str]]:
    """The preset that a file names, "" where it does not, and its options as words. Raises ValueError for what is no TOML."""
    path = user_path(name, "file", what="file of options", way_out="a finished run has one, runs/NAME/config.toml")
    try:
        given = tomllib.loads(path.read_text("utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from error
    preset = given.pop("preset", "")
    if not isinstance(preset, str):
        raise ValueError(f'{path}: preset is the name of one, such as "digits-edm", not {preset!r}')
    return preset, as_words(dict(_leaves(given)))


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield ("network" if prefix + name == "network.type" else prefix + name), value


class Log:
    """A table with a row for each look at a training. Of a run that goes on after ``step`` steps the rows behind them go."""

    def __init__(self, path: Path, step: int):
        self.path = path
        rows = list(csv.reader(path.read_text("utf-8").splitlines())) if path.is_file() else []
        kept = [row for row in rows[1:] if len(row) == len(COLUMNS) and row[0].isdecimal() and int(row[0]) <= step]
        self.step = step
        write_whole(path, "".join(f"{','.join(row)}\n" for row in [COLUMNS, *kept]).encode())

    def add(self, step: int, *values: float | None) -> None:
        """A row, in the order of COLUMNS; None is an empty field. Of a step that had one before there is no other."""
        if step <= self.step:
            return
        row = ("" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value) for value in (step, *values))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(",".join(row) + "\n")
