"""From an experiment to a checkpoint: `fit`, the trainer, processes, states that a run continues from, presets."""

from .fit import (
    LR_SCHEDULES,
    HalfLife,
    Part,
    Snapshot,
    Trainer,
    TrainState,
    fit,
    frozen_copy,
    update_average,
)

__all__ = [
    "HalfLife",
    "LR_SCHEDULES",
    "Part",
    "Snapshot",
    "TrainState",
    "Trainer",
    "fit",
    "frozen_copy",
    "update_average",
]
