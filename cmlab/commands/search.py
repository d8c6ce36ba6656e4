"""'cmlab search': find the noise levels of multistep sampling."""

from dataclasses import dataclass
from typing import ClassVar

from ..base import text
from ..base.registry import DATASETS
from .options import Checkpoint, Compiled, Device, InPrecision


@dataclass(frozen=True)
class SearchOptions:
    """Search the noise levels of multistep sampling, one after the other, by the sliced Wasserstein distance to the data.

    The checkpoint is a consistency model.

    Args:
        points: how many levels to find, besides the first at 80.
        n: number of samples that a score takes; more make it less noisy.
        seed: all candidates get the same samples' seeds, from here on.
        grid: number of levels of the Karras grid to search on; N of the model's training fits.
        data: data set to compare with; by default the one that the model was trained on.
        tolerance: difference of two scores that may be chance; above 0 the search scores more candidates.
    """

    lists: ClassVar = ((DATASETS,),)
    checkpoint: Checkpoint
    points: int = 1
    n: int = 10_000
    seed: int = 0
    grid: int = 40
    data: str | None = None
    tolerance: float = 0.0
    device: Device = "auto"
    precision: InPrecision = "float32"
    compile: Compiled = False


def search(o: SearchOptions) -> None:
    """Run 'cmlab search': print the levels that were found, and how good they are."""
    from tqdm import tqdm

    from ..base.device import choose_device
    from ..evaluation.levels import data_floor, wasserstein_score
    from ..methods.search import greedy_search, search_grid
    from .common import load, of_data

    if o.points < 1 or o.n < 1:
        raise ValueError(f"--points and --n must be at least 1, got {o.points} and {o.n}")
    if o.grid < o.points + 2:
        raise ValueError(f"--grid must be at least {o.points + 2} to have {o.points} between its ends, got {o.grid}")
    device = choose_device(o.device)
    model, meta, _ = load(o.checkpoint, device, precision=o.precision, compile=o.compile)
    if not model.traits.consistency:
        raise ValueError(f"{o.checkpoint} is a diffusion model: time points are searched for a consistency model")
    data, name = of_data(o.checkpoint, model, meta, o.data)
    score = wasserstein_score(model, data, o.n, o.seed, device=device)
    fresh = wasserstein_score(model, data, o.n, o.seed + o.n, device=device)
    with tqdm(unit=" scores", desc="search", disable=None) as bar:

        def counted(sigmas: tuple[float, ...]) -> float:
            bar.update()
            return score(sigmas)

        found = greedy_search(counted, search_grid(model, o.grid), o.points, tolerance=o.tolerance)
    floor = data_floor(data, o.n, o.seed)
    print(f"{o.checkpoint}: sliced Wasserstein distance of {o.n} samples to {name}; data to data {floor:.4f}")
    checked = [fresh(best.sigmas) for best in found.best]
    rows = [(best.score, check, best.sigmas) for best, check in zip(found.best, checked, strict=True)]
    table = [[str(len(sigmas)), f"{score:.4f}", f"{check:.4f}", text.levels(sigmas)] for score, check, sigmas in rows]
    print(*text.aligned([["steps", "score", "new seeds", "sigmas"], *table]), sep="\n")
    helpful = min(range(len(checked)), key=checked.__getitem__)
    if helpful < o.points:
        print(f"On new seeds more than {text.count(helpful + 1, 'step')} did not help: the difference may be chance, see --n.")
    words = text.levels(found.best[helpful].sigmas)
    print(f"{found.evaluations} lists of levels scored. Next: cmlab sample {o.checkpoint} --sigmas {words}")
