"""Which presets and chains of them there are, told without torch: `training.presets` makes them of the same names."""

from collections.abc import Iterable
from typing import Any

from .registry import DATASETS, LOSSES, PUBLISHED, Record

OWN: dict[str, Any] = {}  # presets of one's own, by name


# By name, a preset of a diffusion model and those of the consistency models that are made from it.
CHAINS = {f"{data}-chain": (f"{data}-edm", f"{data}-cd", f"{data}-ict") for data in ("cifar10-small", "mnist", "digits-color")}
IMAGES = ("digits", "digits-color")  # sets of images that every loss for images has a preset of


def small_presets(losses: Iterable[Record[Any]], sets: Iterable[Record[Any]]) -> dict[str, tuple[str, str]]:
    """The presets of small data sets, by name: their data and their loss. Of points there is one for every loss."""
    known = list(losses)
    toys = [(data.name, loss.name) for data in sets if data.kind == "toy" for loss in known]
    images = [(data, loss.name) for data in IMAGES for loss in known if loss.facts.get("images")]
    return {f"{data}-{loss}": (data, loss) for data, loss in [*toys, *images]}


def presets_by_data() -> dict[str, list[str]]:
    """The names of all presets, for each data set those that learn it."""
    sets = DATASETS.texts()
    data = {name: data for name, (data, _) in small_presets(LOSSES.texts().values(), sets.values()).items()}
    data |= {name: max((one for one in sets if name.startswith(f"{one}-")), key=len, default="") for name in PUBLISHED.texts()}
    data |= {name: preset.data for name, preset in OWN.items()}
    return {one: [name for name in data if data[name] == one] for one in dict.fromkeys(data.values())}
