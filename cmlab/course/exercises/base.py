"""What an exercise and a quiz of the lessons are, and how an attempt is judged."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...oracle import Gaussian

RIGHT, WRONG, OPEN = "right", "not yet right", "not solved yet"


@dataclass(frozen=True)
class Exercise:
    """A function that the reader writes.

    Args:
        answer: the reference; its source is what `reveal` shows and what replaces an unsolved attempt.
        wrong: functions with typical mistakes, and what to say to whoever makes them.
        hint: the way to the answer, without the answer.
        cases: gives the arguments of each test; built when needed, so that importing costs nothing.
    """

    answer: Callable[..., Any]
    wrong: Mapping[Callable[..., Any], str]
    hint: str
    cases: Callable[[], Iterable[tuple[Any, ...]]]

    def judge(self, attempt: Callable[..., Any]) -> tuple[str, str]:
        """RIGHT, WRONG or OPEN, and what to tell the reader."""
        for number, case in enumerate(self.cases(), 1):
            want = self.answer(*_copies(case))
            try:
                got = attempt(*_copies(case))
            except Exception as error:
                # A "..." that is still in the code is what raised: that is no mistake yet.
                if ... in getattr(getattr(attempt, "__code__", None), "co_consts", ()) and isinstance(error, TypeError):
                    return OPEN, ""
                return WRONG, f"Your function raised {type(error).__name__}: {error}."
            if got is None or got is ...:
                return OPEN, ""
            problem = _difference(got, want)
            if problem:
                known = (text for mistake, text in self.wrong.items() if not _difference(got, mistake(*_copies(case))))
                return WRONG, " ".join([f"Test {number}: {problem}.", *known][:2])
        return RIGHT, ""


def _copies(case: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in case)


def _difference(got: Any, want: Any) -> str:
    """What distinguishes an answer from the right one, or "": float32 rounding passes, a missing factor does not."""
    try:
        a, b = (torch.as_tensor(v).detach().double() for v in (got, want))
    except (TypeError, ValueError, RuntimeError):
        return f"expected a tensor, got {type(got).__name__}"
    if a.shape != b.shape:
        return f"expected shape {tuple(b.shape)}, got {tuple(a.shape)}"
    if not bool(a.isfinite().all()):
        return "the result holds values that are not finite"
    error = (a - b).abs()
    if float(error.max()) <= 1e-4 * max(float(b.abs().max()), 1e-3):
        return ""
    worst = int(error.argmax())
    return f"expected {float(b.flatten()[worst]):.4g}, got {float(a.flatten()[worst]):.4g} where the two differ most"


@dataclass(frozen=True)
class Question:
    """``options``: key -> (what it says, what to answer to whoever picks it); ``right`` is the correct key."""

    text: str
    options: Mapping[str, tuple[str, str]]
    right: str


# --- what the tests of many exercises are made of --------------------------------------------------------------------------


def normal(*shape: int) -> Tensor:
    """Unit noise of this shape, float64, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def blob() -> Gaussian:
    """An exact denoiser for tests."""
    return Gaussian(torch.tensor([0.3, -0.2]), 0.5)
