"""What ``cmlab`` exports: `lazy_loader` reads it when a name is used, type checkers when they look."""

from . import (
    data,
    denoiser,
    distances,
    editing,
    evaluation,
    formats,
    losses,
    methods,
    networks,
    noise,
    oracle,
    samplers,
    schedules,
    theory,
    training,
)
from .base.registry import register
from .data import DATASETS, ImageData, PixelData, load_data
from .denoiser import CONSISTENCY, EDM, PRECONDS, Coeffs, Denoise, Denoiser, Precond, Preconditioning
from .distances import Distance
from .editing import EDITS, Edit, apply_edit, run_edit, slerp
from .evaluation.points import sliced_wasserstein
from .formats.checkpoints import load, pretrained_names, save
from .losses import LOSSES, ConsistencyLoss, DenoisingLoss, EDMLoss, LossOut, cd, ict
from .methods.continuous import ContinuousLoss, SCMLoss
from .methods.guidance import AutoGuidance, ClassifierFree, ClassifierGuidance, conditioned
from .methods.likelihood import decode, encode, log_likelihood
from .methods.progressive import ProgressiveLoss
from .methods.scalings import IDDPMPrecond, TrigPrecond, VEPrecond, VPPrecond
from .methods.search import greedy_search
from .networks import NETWORKS, MLPConfig, SongUNetConfig, UNetConfig, build_network
from .noise import SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, expand, karras_sigmas, sampling_sigmas
from .oracle import FiniteData, Gaussian, GaussianMixture
from .samplers import SAMPLERS, Plan, Step, default_sigmas, initial_noise, sample
from .training.config import HalfLife, TrainConfig
from .training.fit import TrainState, fit
from .training.presets import PRESETS, Preset, get_preset, run
from .training.trainer import Trainer

__version__: str

__all__ = [
    "AutoGuidance",
    "CONSISTENCY",
    "ClassifierFree",
    "ClassifierGuidance",
    "Coeffs",
    "ConsistencyLoss",
    "ContinuousLoss",
    "DATASETS",
    "Denoise",
    "Denoiser",
    "DenoisingLoss",
    "Distance",
    "EDITS",
    "EDM",
    "EDMLoss",
    "Edit",
    "FiniteData",
    "Gaussian",
    "GaussianMixture",
    "HalfLife",
    "IDDPMPrecond",
    "ImageData",
    "LOSSES",
    "LossOut",
    "MLPConfig",
    "NETWORKS",
    "PRECONDS",
    "PixelData",
    "Plan",
    "PRESETS",
    "Precond",
    "Preconditioning",
    "Preset",
    "ProgressiveLoss",
    "SAMPLERS",
    "SCMLoss",
    "SIGMA_DATA",
    "SIGMA_MAX",
    "SIGMA_MIN",
    "SongUNetConfig",
    "Step",
    "TrainConfig",
    "TrainState",
    "Trainer",
    "TrigPrecond",
    "UNetConfig",
    "VEPrecond",
    "VPPrecond",
    "__version__",
    "apply_edit",
    "build_network",
    "cd",
    "conditioned",
    "data",
    "decode",
    "default_sigmas",
    "denoiser",
    "distances",
    "editing",
    "encode",
    "evaluation",
    "expand",
    "fit",
    "formats",
    "get_preset",
    "greedy_search",
    "ict",
    "initial_noise",
    "karras_sigmas",
    "load",
    "load_data",
    "log_likelihood",
    "losses",
    "methods",
    "networks",
    "noise",
    "oracle",
    "pretrained_names",
    "register",
    "run",
    "run_edit",
    "sample",
    "samplers",
    "sampling_sigmas",
    "save",
    "schedules",
    "slerp",
    "sliced_wasserstein",
    "theory",
    "training",
]
