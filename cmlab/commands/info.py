"""'cmlab info': describe a checkpoint or a classifier, or list what there is."""

from dataclasses import dataclass
from typing import Annotated

import tyro


@dataclass(frozen=True)
class InfoOptions:
    """Describe a checkpoint, or list presets, data sets and bundled checkpoints.

    Args:
        checkpoint: a bundled name or a path; without it, the list.
    """

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[CHECKPOINT]")] = ""


def info(o: InfoOptions) -> None:
    """Run 'cmlab info'."""
    from ..evaluation.card import card, classifier_card
    from ..evaluation.classifier import load_classifier, resolve_classifier
    from ..formats.checkpoints import CheckpointError
    from ..training.presets import find
    from .train import other_runs

    if not o.checkpoint:
        return _list()
    try:
        print(card(find(o.checkpoint)))
    except CheckpointError as error:
        try:
            known = load_classifier(resolve_classifier(o.checkpoint))
        except ValueError:
            if not any(o.checkpoint in names for names in other_runs()):
                raise error from None
            told = f"see 'cmlab train {o.checkpoint} --help', and 'cmlab info' for the checkpoints and classifiers that are there"
            raise ValueError(f"{o.checkpoint} is no checkpoint but what 'cmlab train' makes some with: {told}") from error
        print(classifier_card(o.checkpoint, known))


def _list() -> None:
    from ..data import DATASETS
    from ..evaluation.classifier import classifier_names
    from ..formats.checkpoints import own_checkpoints, pretrained_names
    from .train import other_runs, preset_lines

    print("bundled checkpoints:", ", ".join(pretrained_names()))
    if own := [path.stem for path in own_checkpoints()]:
        print("your own, in runs/, which come before bundled ones of the same name:", ", ".join(own))
    print("data sets:", ", ".join(DATASETS.of_kind("toy", "images")))
    filed = ", ".join(DATASETS.of_kind("file", "folder"))
    print(f"data sets that need their files: {filed} (or --data with a folder of pictures)")
    print("presets, a line for each data set:", *preset_lines(), sep="\n")
    chains, trainable = other_runs()
    print("chains of presets, by 'cmlab train':", ", ".join(chains))
    print("classifiers, for 'cmlab evaluate --features':", ", ".join(classifier_names()))
    print("and what trains such ones:", ", ".join(trainable))
