"""Reading the reference files, and the registry of runners that compute cmlab's answer to a case.

A file is ``<stem>.npz`` with arrays ``<case>/<in|param|out|dbg>/<name>`` and a JSON index under "meta". A runner is registered
for a file pattern and the name of the original's function, takes a `Case` and yields one `Check` or `Skip` per output array.
Nothing is skipped in silence: an output that a runner does not mention fails the test.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

HERE = Path(__file__).parents[1] / "reference"
FOLDER = Path(os.environ.get("CMLAB_REFERENCE_DIR") or HERE)
# Relative to the largest absolute value of the array: GOLDEN.md's recommendations.
F64, F32_ELEMENTARY, F32_NETWORK, F32_GRADIENT, F32_UNET_SAMPLER = 1e-9, 1e-5, 2e-4, 1e-3, 2e-3

# Where cmlab departs from an original on purpose. The key stands in a Check or Skip; tests/reference/README.md has the table.
DEVIATIONS = {
    "below-the-boundary": "below sigma_min a consistency model is the identity; the original's c_out turns negative there",
    "clamped-progress": "past the planned steps cmlab keeps the last N(k) and mu(k); the original lets both grow on",
    "round-trip-noise": "EDM's ablation sampler on the VP schedule adds noise of 1e-7 where it should add none; cmlab adds none",
    "window-edge": "the original leaves a last level that equals S_min one rounding outside the window of the churn; cmlab's is in",
    "no-append-zero": "cmlab has no function that appends a 0 to any levels; its grids end in 0 by themselves",
    "linear-length": "between vectors of unequal length cmlab's slerp turns evenly, with the length between; the paper's does not",
    "short-margin": "EDM mirrors a border that is a pixel short for turned pictures, and goes on in black; cmlab mirrors all of it",
    "float16-attention": "cmlab's attention on a CPU has the network's precision; the original's alternative casts to float16",
}


@dataclass(frozen=True)
class Check:
    """cmlab's value for the output ``name``. ``rows`` limits the comparison, which then has a ``deviation`` as its reason."""

    name: str
    got: Tensor
    tolerance: float
    rows: Any = None
    deviation: str = ""


@dataclass(frozen=True)
class Skip:
    """An output that cmlab does not compute, and why: ``deviation`` is a key of DEVIATIONS."""

    name: str
    deviation: str


class Golden:
    """One reference file."""

    def __init__(self, path: Path):
        self.path, self.stem = path, path.stem
        self.arrays = np.load(path, allow_pickle=False)
        self.meta = json.loads(str(self.arrays["meta"]))

    @property
    def cases(self) -> "list[Case]":
        return [Case(self, name, entry) for name, entry in self.meta["cases"].items()]

    def case(self, name: str) -> "Case":
        return Case(self, name, self.meta["cases"][name])


@lru_cache(maxsize=32)
def open_golden(path: Path) -> Golden:
    return Golden(path)


@dataclass(frozen=True)
class Case:
    """One call of an original function: its settings (``scalars``), inputs, parameters and expected outputs."""

    file: Golden
    name: str
    entry: dict[str, Any]

    @property
    def fn(self) -> str:
        return self.entry["fn"]

    @property
    def scalars(self) -> dict[str, Any]:
        return self.entry["scalars"]

    def names(self, group: str) -> list[str]:
        """Names of the arrays of ``group`` ("in", "param", "out", "dbg"), from the file itself."""
        prefix = f"{self.name}/{group}/"
        return [key[len(prefix) :] for key in self.file.arrays.files if key.startswith(prefix)]

    def has(self, group: str, name: str) -> bool:
        return f"{self.name}/{group}/{name}" in self.file.arrays.files

    def numpy(self, group: str, name: str) -> np.ndarray:
        return self.file.arrays[f"{self.name}/{group}/{name}"]

    def tensor(self, group: str, name: str, dtype: torch.dtype | None = None) -> Tensor:
        value = torch.as_tensor(np.array(self.numpy(group, name)))
        return value if dtype is None else value.to(dtype)

    def input(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        return self.tensor("in", name, dtype)

    def params(self, dtype: torch.dtype, prefix: str = "") -> dict[str, Tensor]:
        """The arrays of group "param" whose names begin with ``prefix`` (cut off)."""
        return {n[len(prefix) :]: self.tensor("param", n, dtype) for n in self.names("param") if n.startswith(prefix)}

    def beside(self, stem: str) -> Golden:
        """Another reference file of the same folder."""
        return open_golden(self.file.path.parent / f"{stem.removesuffix('.npz')}.npz")

    @property
    def dtype(self) -> torch.dtype:
        """float32 for the cases whose name says so, float64 otherwise."""
        return torch.float32 if self.name.endswith("_f32") else torch.float64


Runner = Callable[[Case], Iterator[Check | Skip]]
RUNNERS: list[tuple[re.Pattern[str], str, Runner]] = []


def runs(files: str, *functions: str) -> Callable[[Runner], Runner]:
    """Register a runner for the cases of ``files`` (a regular expression) whose function is, or begins with, one of these names."""

    def register(runner: Runner) -> Runner:
        RUNNERS.extend((re.compile(files), function, runner) for function in functions)
        return runner

    return register


def known_file(stem: str) -> bool:
    return any(pattern.fullmatch(stem) for pattern, _, _ in RUNNERS)


def runner_of(case: Case) -> Runner | None:
    """The runner of the longest matching function name, or None."""
    fitting = [
        (len(function), runner)
        for pattern, function, runner in RUNNERS
        if pattern.fullmatch(case.file.stem) and case.fn.startswith(function)
    ]
    return max(fitting, key=lambda pair: pair[0])[1] if fitting else None


def tolerance(dtype: torch.dtype, single: float) -> float:
    """1e-9 for float64, ``single`` for float32."""
    return F64 if dtype == torch.float64 else single


def relative_error(got: Tensor, want: Tensor) -> float:
    """max |got - want| over max |want| (absolute where ``want`` is all zero). NaN and infinities must agree exactly."""
    if got.shape != want.shape:
        raise AssertionError(f"shape {tuple(got.shape)}, expected {tuple(want.shape)}")
    got, want = got.double(), want.double()
    if want.numel() == 0:
        return 0.0
    odd = ~want.isfinite()
    if bool(odd.any()):
        if not torch.equal(got[odd].nan_to_num(nan=12345.0), want[odd].nan_to_num(nan=12345.0)):
            return float("inf")
        got, want = got[~odd], want[~odd]
        if want.numel() == 0:
            return 0.0
    error = float((got - want).abs().max())
    size = float(want.abs().max())
    return error / size if size > 0 else error
