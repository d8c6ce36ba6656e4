"""'cmlab theory': measure a theorem of the paper."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from ..base.files import new_file, write_png, write_whole
from ..base.registry import DATASETS, EXPERIMENTS
from ..base.text import aligned
from .options import check_taken, one_of


@dataclass(frozen=True)
class TheoryOptions:
    """Measure a theorem of the paper against exact scores, in float64.

    Args:
        experiment: what to measure.
        data: for thm1 and thm2: soft3 (three broad Gaussians, the default), gaussian, or a data set of points.
        checkpoint: for thm1: a consistency model of points, whose error is drawn beside the curve, on its own data. For variance:
            the model whose gradient is measured, by default 8gaussians-edm, where consistency training starts.
        solver: for thm1: by default heun.
        distance: for thm2: by default l2.
        target: for thm2: another network (the default), or the online network itself.
        weight: for variance: weight of the loss, by default 1.
        sizes: numbers N of grid levels, growing.
        points: draws of data and noise; fewer are faster and rougher.
        seed: seed of the draws, and of thm2's random networks.
        json: file to write the figures to.
        figure: picture to write, .png.
        overwrite: replace those files.
    """

    lists: ClassVar = ((EXPERIMENTS,), (DATASETS, "toy"))
    experiment: Annotated[str, tyro.conf.Positional, one_of(EXPERIMENTS)]
    data: str | None = None
    checkpoint: str | None = None
    solver: Annotated[str | None, one_of(EXPERIMENTS, "solver")] = None
    distance: Annotated[str | None, one_of(EXPERIMENTS, "distance")] = None
    target: Annotated[str | None, one_of(EXPERIMENTS, "target")] = None
    weight: Annotated[str | None, one_of(EXPERIMENTS, "weight")] = None
    sizes: tuple[int, ...] | None = None
    points: int | None = None
    seed: int = 0
    json: Path | None = None
    figure: Path | None = None
    overwrite: bool = False


def theory(o: TheoryOptions) -> None:
    """Run 'cmlab theory': print the table and write the files that were asked for."""
    if o.figure is not None and o.figure.suffix != ".png":
        raise ValueError(f"--figure must end in .png, got {o.figure}")
    own = _own_options(o)
    for option, path in (("--json", o.json), ("--figure", o.figure)):
        if path is not None:
            new_file(path, o.overwrite, option)
    sampled = {"seed": o.seed, "sizes": o.sizes, "points": o.points}
    found = EXPERIMENTS[o.experiment]({name: value for name, value in sampled.items() if value is not None}, **own)
    print(found.title, *aligned(found.table()), *found.conclusions, sep="\n")
    if o.json is not None:
        facts = {"experiment": o.experiment, "seed": o.seed, "slope": found.slope, **asdict(found.result)}
        write_whole(o.json, json.dumps(facts, indent=1).encode())
    if o.figure is not None:
        write_png(o.figure, found.figure())


def _own_options(o: TheoryOptions) -> dict[str, str]:
    """The options that are the experiment's own; refuses, before any work is done, those that do not go together."""
    from ..theory import check_sizes
    from .common import checkpoint_of

    asked = {name: getattr(o, name) for name in ("data", "checkpoint", "solver", "distance", "target", "weight")}
    own = {name: value for name, value in asked.items() if value is not None}
    taken = {parameter.name: parameter.default for parameter in check_taken(EXPERIMENTS, o.experiment, own)}
    if "data" in own and "checkpoint" in own:
        raise ValueError("the checkpoint says what its data are: leave --data out")
    if o.points is not None and o.points < 1:
        raise ValueError(f"--points must be at least 1, got {o.points}")
    if o.sizes is not None and len(check_sizes(o.sizes)) < 2:
        raise ValueError("--sizes needs at least two sizes to have a slope, such as 40 80 160")
    if name := (taken | own).get("checkpoint"):
        checkpoint_of(name)  # says where it is one of the user's own
    return own
