"""Which noise levels should multistep sampling use? A greedy ternary search for them (CM, section 3).

    score = wasserstein_score(model, load_data("8gaussians"), n=5000, seed=0)
    found = greedy_search(score, karras_sigmas(40), points=2)
    sample(model, model.shape, seeds, "multistep", sigmas=torch.tensor(found.sigmas))

A score is any ``score(sigmas) -> float``, lower is better, of the decreasing levels that `multistep` takes: for pictures an FID.
Every candidate should be scored on the same seeds, so that candidates differ by their levels and not by luck.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..denoiser import Denoiser, Label, traits_of
from ..noise import SIGMA_MIN, karras_sigmas
from ..samplers import sample

Sigmas = tuple[float, ...]
Score = Callable[[Sigmas], float]
Metric = Callable[[Tensor], float]


@dataclass(frozen=True)
class Evaluation:
    """One scored list of levels; its last level is the candidate, the others were fixed."""

    sigmas: Sigmas
    score: float


@dataclass(frozen=True)
class SearchResult:
    """What a greedy search found.

    ``best[k]`` has k levels more than the start; ``history`` holds every list of levels that was scored, in that order.
    """

    best: tuple[Evaluation, ...]
    history: tuple[Evaluation, ...]

    @property
    def sigmas(self) -> Sigmas:
        """All levels found, decreasing: what `multistep` takes."""
        return self.best[-1].sigmas

    @property
    def score(self) -> float:
        return self.best[-1].score

    @property
    def evaluations(self) -> int:
        return len(self.history)


def ternary_search(score: Callable[[int], float], low: int, high: int, *, tolerance: float = 0.0) -> int:
    """The index in ``low..high`` (both included) where ``score`` is lowest, the first on ties; each index is scored at most once.

    Exact when the scores fall to one valley and rise after it. Each round compares two points a third apart. If their scores differ
    by more than ``tolerance``, what lies beyond the higher one is dropped. If not, but a point between them is clearly lower, only
    what lies between them is kept. Else everything that is left is scored. With noise of at most e on every score, ``tolerance =
    2 e`` never drops the true optimum.

    >>> ternary_search(lambda i: (i - 7) ** 2, 0, 40)
    7

    Raises ValueError for an empty range, a negative tolerance or a score that is not finite.
    """
    if low > high:
        raise ValueError(f"nothing to search between {low} and {high}")
    if not tolerance >= 0:
        raise ValueError(f"the tolerance is a difference of scores, it cannot be {tolerance}")
    seen: dict[int, float] = {}

    def at(i: int) -> float:
        if i not in seen:
            seen[i] = score(i)
            if not math.isfinite(seen[i]):
                raise ValueError(f"the score of candidate {i} is {seen[i]}: a search needs finite scores")
        return seen[i]

    while high - low > 2:
        third = (high - low) // 3
        left, right = low + third, high - third
        middle = (left + right) // 2
        if abs(at(left) - at(right)) > tolerance:
            # The higher of the two lies beyond the valley, and so does all that is further out.
            low, high = (low, right - 1) if at(left) < at(right) else (left + 1, high)
        elif left < middle and at(middle) < min(at(left), at(right)) - tolerance:
            low, high = left + 1, right - 1
        else:
            break
    # Points that were thrown away are not candidates, even if noise made one of them look low.
    return min(range(low, high + 1), key=at)


def candidates(grid: Sequence[float] | Tensor, fixed: Sequence[float]) -> Sigmas:
    """The levels of a decreasing ``grid`` that may follow ``fixed``: below its last, above the grid's last (where f(x) = x)."""
    levels = [float(s) for s in grid]
    if len(levels) < 2 or any(not below < above for above, below in pairwise(levels)):
        raise ValueError("the grid must be at least two decreasing noise levels, such as karras_sigmas(40)")
    last = float(fixed[-1])
    return tuple(s for s in levels if levels[-1] < s < last)


def greedy_search(
    score: Score,
    grid: Sequence[float] | Tensor,
    points: int,
    *,
    start: Sequence[float] | None = None,
    repeats: int = 1,
    tolerance: float = 0.0,
) -> SearchResult:
    """Add ``points`` levels one after the other, each the best on the ``grid`` below those already found (CM, section 3).

    Args:
        score: ``score(sigmas) -> float`` of decreasing levels; lower is better.
        grid: decreasing levels, such as those of the model's training; the last is sigma_min, where nothing is left to do.
        points: how many levels to add to ``start``.
        start: levels that are given; by default the grid's first alone, one-step generation.
        repeats: calls averaged for one candidate. Only for a score that draws anew in every call.
        tolerance: difference of two scores that may be chance, see `ternary_search`. Twice the scatter that the score of one list
            of levels shows over seeds is cautious; common seeds usually need less.

    The search assumes that the scores have one valley; `full_sweep` shows whether they do. Raises ValueError when the grid has no
    level left.
    """
    if points < 1:
        raise ValueError(f"a search adds at least 1 point, got {points}")
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    history: list[Evaluation] = []

    def evaluate(sigmas: Sigmas) -> Evaluation:
        known = [e for e in history if e.sigmas == sigmas]
        if known:
            return known[0]
        history.append(Evaluation(sigmas, sum(score(sigmas) for _ in range(repeats)) / repeats))
        return history[-1]

    fixed = tuple(float(s) for s in (grid[:1] if start is None else start))
    if not fixed or any(not below < above for above, below in pairwise(fixed)):
        raise ValueError(f"the search starts from at least one level, in decreasing order, got {list(fixed)}")
    best = [evaluate(fixed)]
    for _ in range(points):
        found = best[-1].sigmas
        free = candidates(grid, found)
        if not free:
            raise ValueError(
                f"no level of the grid is left below {found[-1]:.4g} for point {len(best)} of {points}: "
                "search fewer points or take a finer grid"
            )
        i = ternary_search(lambda i: evaluate((*found, free[i])).score, 0, len(free) - 1, tolerance=tolerance)  # noqa: B023
        best.append(evaluate((*found, free[i])))
    return SearchResult(tuple(best), tuple(history))


def full_sweep(score: Score, grid: Sequence[float] | Tensor, fixed: Sequence[float]) -> tuple[Evaluation, ...]:
    """The score of every level that may follow ``fixed``, from high to low: the curve that `ternary_search` walks on."""
    start = tuple(float(s) for s in fixed)
    return tuple(Evaluation((*start, s), score((*start, s))) for s in candidates(grid, start))


def is_unimodal(scores: Sequence[float], tolerance: float = 0.0) -> bool:
    """Whether scores fall to one valley and rise after it; steps of up to ``tolerance`` the wrong way are forgiven.

    >>> is_unimodal([3, 2, 2, 5]), is_unimodal([3, 2, 4, 1])
    (True, False)
    """
    lowest = min(range(len(scores)), key=lambda i: scores[i])
    # Against the lowest so far, not the neighbour: many small steps the wrong way add up.
    falls = all(scores[i] <= min(scores[: i + 1]) + tolerance for i in range(lowest))
    return falls and all(scores[i] >= max(scores[lowest : i + 1]) - tolerance for i in range(lowest, len(scores)))


def sample_score(
    model: Denoiser,
    metric: Metric,
    seeds: Sequence[int],
    *,
    label: Label = None,
    batch: int = 4096,
    device: torch.device | str = "cpu",
) -> Score:
    """A score: draw one sample per seed by `multistep`, the same seeds for every candidate, and give all to ``metric``.

    ``metric(samples)`` takes (N, *S) on the CPU and returns a float, lower is better (sliced Wasserstein distance, FID; not a
    distance to a teacher's samples of the same seeds, whose noise of further steps is other). ``label`` is (N,) int64. ``batch``
    samples are drawn at a time, which does not change them.

    Raises ValueError for a diffusion model, which multistep sampling cannot use.
    """
    if not traits_of(model).consistency:
        raise ValueError("multistep sampling needs a consistency model, this is a diffusion model")
    if len(seeds) < 1:
        raise ValueError("a score needs at least one seed")
    seeds = list(seeds)

    def score(sigmas: Sigmas) -> float:
        parts = []
        for k in range(0, len(seeds), batch):
            part = None if label is None else label[k : k + batch].to(device)
            some, levels = seeds[k : k + batch], torch.tensor(sigmas, dtype=torch.float64)
            x = sample(model, model.shape, some, "multistep", sigmas=levels, label=part, device=device)
            parts.append(x.cpu())
        return float(metric(torch.cat(parts)))

    return score


def search_grid(model: Denoiser, n: int) -> Tensor:
    """Karras' grid of ``n`` levels down to the model's lowest: the grid of a consistency model that was trained on ``n`` levels."""
    return karras_sigmas(n, sigma_min=traits_of(model).levels[0] or SIGMA_MIN)
