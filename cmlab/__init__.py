"""cmlab: learn, explore and train consistency models. The one contract: ``denoise(x, sigma, label=None) -> x0_hat``."""

from ._version import __version__
from .checkpoints import load, pretrained_names, save
from .continuous import ContinuousLoss, SCMLoss
from .data import DATASETS, load_data
from .denoiser import (
    CONSISTENCY,
    EDM,
    PRECONDS,
    Coeffs,
    Denoise,
    Denoiser,
    IDDPMPrecond,
    Precond,
    TrigPrecond,
    VEPrecond,
    VPPrecond,
    conditioned,
)
from .distances import Distance
from .editing import EDITS, Edit, apply_edit, run_edit, slerp
from .evaluation import sliced_wasserstein
from .guidance import AutoGuidance, ClassifierFree, ClassifierGuidance
from .likelihood import decode, encode, log_likelihood
from .losses import LOSSES, ConsistencyLoss, DenoisingLoss, EDMLoss, LossOut, ProgressiveLoss
from .networks import NETWORKS, MLPConfig, SongUNetConfig, UNetConfig, build_network
from .noise import SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, expand, karras_sigmas, sampling_sigmas
from .oracle import FiniteData, Gaussian, GaussianMixture
from .presets import PRESETS, Preset, get_preset, run
from .samplers import SAMPLERS, Step, default_sigmas, initial_noise, sample
from .search import greedy_search
from .training import TrainState, fit

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
    "IDDPMPrecond",
    "LOSSES",
    "LossOut",
    "MLPConfig",
    "NETWORKS",
    "PRECONDS",
    "PRESETS",
    "Precond",
    "Preset",
    "ProgressiveLoss",
    "SAMPLERS",
    "SCMLoss",
    "SIGMA_DATA",
    "SIGMA_MAX",
    "SIGMA_MIN",
    "SongUNetConfig",
    "Step",
    "TrainState",
    "TrigPrecond",
    "UNetConfig",
    "VEPrecond",
    "VPPrecond",
    "__version__",
    "apply_edit",
    "build_network",
    "conditioned",
    "decode",
    "default_sigmas",
    "encode",
    "expand",
    "fit",
    "get_preset",
    "greedy_search",
    "initial_noise",
    "karras_sigmas",
    "load",
    "load_data",
    "log_likelihood",
    "pretrained_names",
    "run",
    "run_edit",
    "sample",
    "sampling_sigmas",
    "save",
    "slerp",
    "sliced_wasserstein",
]
