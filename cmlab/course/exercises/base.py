"""What an exercise and a quiz of the lessons are, and how an attempt is judged.

Reference answers have no type hints: students read their source and paste it into a notebook that has imported torch alone.
"""

import inspect
import re
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
        answer: the reference, named like the exercise. `teach.reveal` shows its source, and it replaces an unsolved attempt.
        hint: the way to the answer, without the answer.
        cases: gives the arguments of each test; called when needed, so that importing costs nothing.
        mistakes: typical mistakes. What to say to whoever makes one -> how the answer's source changes, as old text -> new text.
            Each old text occurs exactly once in the source; all are replaced at the same time.
    """

    answer: Callable[..., Any]
    hint: str
    cases: Callable[[], Iterable[tuple[Any, ...]]]
    mistakes: Mapping[str, Mapping[str, str]]

    @property
    def name(self) -> str:
        return self.answer.__name__

    @property
    def source(self) -> str:
        """The source of the answer."""
        return inspect.getsource(self.answer).strip()

    def mistaken(self, message: str) -> str:
        """The source of the answer with the mistake that ``message`` explains."""
        changes = self.mistakes[message]
        return re.sub("|".join(map(re.escape, changes)), lambda old: changes[old[0]], self.source)

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
                known = (text for text in self.mistakes if not _difference(got, self._run(self.mistaken(text), case)))
                return WRONG, " ".join([f"Test {number}: {problem}.", *known][:2])
        return RIGHT, ""

    def _run(self, source: str, case: tuple[Any, ...]) -> Any:
        scope: dict[str, Any] = {"torch": torch}
        exec(source, scope)
        return scope[self.name](*_copies(case))


def _copies(case: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in case)


def _difference(got: Any, want: Any) -> str:
    """How ``got`` differs from ``want``, in words; "" where it is equal up to float32 rounding."""
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
    """A multiple-choice question. ``options``: key -> (what it says, what to answer to whoever picks it); ``right`` is a key."""

    text: str
    right: str
    options: Mapping[str, tuple[str, str]]


# --- what the tests of many exercises are made of --------------------------------------------------------------------------


def normal(*shape: int) -> Tensor:
    """Unit noise of this shape, float64, always the same."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def blob() -> Gaussian:
    """An exact denoiser for tests."""
    return Gaussian(torch.tensor([0.3, -0.2]), 0.5)
