"""What an exercise and a quiz of the lessons are, and how an attempt is judged.

Reference answers have no type hints: students read their source and paste it into a notebook that has imported torch alone.
"""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...oracle import Gaussian

RIGHT, WRONG, OPEN = "right", "not yet right", "not solved yet"


@dataclass(frozen=True)
class Exercise:
    """A function that the reader writes.

    An attempt is right if in every case its values are those of the answer, it leaves its arguments as they were, its gradients
    go where they must, and it makes no more calls than it may.

    Args:
        answer: the reference, named like the exercise. `teach.reveal` shows its source, and it replaces an unsolved attempt.
        hints: two steps, a pointer to where the matter lies and the idea; neither is the answer.
        cases: gives the arguments of each test; called when needed, so that importing costs nothing.
        mistakes: typical mistakes. What to say to whoever makes one -> how the answer's source changes, as old text -> new text.
            Each old text occurs exactly once in the source; all are replaced at the same time.
        also: right answers of other value, in the same form as ``mistakes``, with what to say about the difference.
        trains: arguments, `Weighted`, whose weight must get the answer's gradient.
        frozen: arguments, `Weighted`, whose weight must get none.
        calls: argument, a function -> how often it may be called in one case.
    """

    answer: Callable[..., Any]
    hints: tuple[str, str]
    cases: Callable[[], Iterable[tuple[Any, ...]]]
    mistakes: Mapping[str, Mapping[str, str]]
    also: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    trains: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    calls: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.answer.__name__

    @property
    def source(self) -> str:
        """The source of the answer."""
        return inspect.getsource(self.answer).strip()

    def variant(self, message: str) -> str:
        """The source of the answer with the change, in ``mistakes`` or ``also``, that ``message`` explains."""
        changes = {**self.mistakes, **self.also}[message]
        return re.sub("|".join(map(re.escape, changes)), lambda old: changes[old[0]], self.source)

    def judge(self, attempt: Callable[..., Any]) -> tuple[str, str]:
        """RIGHT, WRONG or OPEN, and what to tell the reader: "" where there is nothing to say."""
        cases, seen = list(self.cases()), []
        for number, case in enumerate(cases, 1):
            try:
                seen.append(self._watch(attempt, case))
            except Exception as error:
                # A "..." that is still in the code is what raised: that is no mistake yet.
                if ... in getattr(getattr(attempt, "__code__", None), "co_consts", ()) and isinstance(error, TypeError):
                    return OPEN, ""
                return WRONG, f"Your function raised {type(error).__name__} in test {number}: {error}."
            if seen[-1].value is None or seen[-1].value is ...:
                return OPEN, ""
        problems = self._problems(seen, self.answer, cases)
        if not any(problems):
            return RIGHT, ""
        for note in self.also:
            if not any(self._problems(seen, self._compiled(note), cases)):
                return RIGHT, note
        # A mistake is named where it explains every case: one that fits a single case may be a coincidence.
        known = [text for text in self.mistakes if self._explains(text, seen, cases)]
        first = next(k for k, problem in enumerate(problems) if problem)
        return WRONG, " ".join([f"Test {first + 1}: {problems[first]}.", *known][:2])

    def _compiled(self, message: str) -> Callable[..., Any]:
        scope: dict[str, Any] = {"torch": torch}
        exec(self.variant(message), scope)
        return scope[self.name]

    def _explains(self, message: str, seen: "list[_Seen]", cases: list[tuple[Any, ...]]) -> bool:
        mistaken = self._compiled(message)
        return not any(_difference(s.value, self._watch(mistaken, case).value) for s, case in zip(seen, cases, strict=True))

    def _watch(self, function: Callable[..., Any], case: tuple[Any, ...]) -> "_Seen":
        given = dict(zip(inspect.signature(self.answer).parameters, map(_fresh, case), strict=True))
        value = function(*given.values())
        functions = {name: a for name, a in given.items() if isinstance(a, _Watched)}
        changed = [name for (name, a), old in zip(given.items(), case, strict=True) if not callable(old) and not _equal(a, old)]
        weights = {name: functions[name].weight for name in (*self.trains, *self.frozen)}
        return _Seen(value, changed, {name: a.count for name, a in functions.items()}, _gradients(value, weights))

    def _problems(self, seen: "list[_Seen]", answer: Callable[..., Any], cases: list[tuple[Any, ...]]) -> list[str]:
        return [self._problem(got, self._watch(answer, case)) for got, case in zip(seen, cases, strict=True)]

    def _problem(self, got: "_Seen", want: "_Seen") -> str:
        if text := _difference(got.value, want.value):
            return text
        for name in got.changed:
            return f"the values are right, but {name} is changed afterwards: whoever calls you still needs it. No += on an argument"
        for name in self.trains:
            if not bool(got.gradients[name]):
                return f"the values are right, but no gradient reaches the weights of {name}: nothing would be trained"
            if _difference(got.gradients[name], want.gradients[name]):
                return f"the values are right, but the gradient that reaches the weights of {name} is not"
        for name in self.frozen:
            if bool(got.gradients[name]):
                return f"the values are right, but a gradient reaches the weights of {name}: its answer must count as a constant"
        for name, most in self.calls.items():
            if got.calls[name] > most:
                return f"the values are right, but {name} was called {got.calls[name]} times; {most} are enough"
        return ""


@dataclass
class _Seen:
    """What one call of an attempt did."""

    value: Any
    changed: list[str]
    calls: dict[str, int]
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Weighted:
    """A model with one weight, for tests of gradients: ``function(weight, *args)``."""

    function: Callable[..., Any]
    weight: float

    def __call__(self, *args: Any) -> Any:
        return self.function(self.weight, *args)


class _Watched:
    """A function that counts its calls, with a weight of its own where it has one."""

    def __init__(self, function: Callable[..., Any]):
        self.function, self.count, self.weight = function, 0, torch.tensor(0.0)
        if isinstance(function, Weighted):
            self.weight = torch.tensor(function.weight, dtype=torch.float64, requires_grad=True)
            self.function = lambda *args: function.function(self.weight, *args)

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.count += 1
        return self.function(*args, **options)


def _fresh(a: Any) -> Any:
    """An argument that an attempt may spoil."""
    return a.clone() if isinstance(a, Tensor) else _Watched(a) if callable(a) else copy(a)


def _equal(a: Any, b: Any) -> bool:
    return torch.equal(a, b) if isinstance(b, Tensor) else a == b


def _gradients(value: Any, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradient of a weighted sum of ``value`` for each weight; 0 where none arrives."""
    if not (weights and isinstance(value, Tensor) and value.requires_grad):
        return {name: torch.tensor(0.0) for name in weights}
    total = (value.flatten() * torch.linspace(1, 2, value.numel(), dtype=value.dtype)).sum()
    found = torch.autograd.grad(total, list(weights.values()), allow_unused=True)
    return {name: torch.tensor(0.0) if g is None else g for name, g in zip(weights, found, strict=True)}


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
