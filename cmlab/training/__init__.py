"""From an experiment to a checkpoint: `fit`, the trainer, processes, states that a run continues from, presets."""

from .config import LR_SCHEDULES, HalfLife, TrainConfig
from .fit import TrainState, fit
from .trainer import MicroBatch, Snapshot, Trainer, frozen_copy, update_average

__all__ = [
    "HalfLife",
    "LR_SCHEDULES",
    "MicroBatch",
    "Snapshot",
    "TrainConfig",
    "TrainState",
    "Trainer",
    "fit",
    "frozen_copy",
    "update_average",
]
