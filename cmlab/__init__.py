"""cmlab: learn, explore and train consistency models. The one contract: ``denoise(x, sigma, label=None) -> x0_hat``."""

from ._version import __version__
from .checkpoints import load, pretrained_names, save
from .data import DATASETS, load_data
from .denoiser import CONSISTENCY, EDM, Coeffs, Denoise, Denoiser, Precond, conditioned
from .distances import Distance
from .editing import EDITS, Edit, apply_edit, run_edit, slerp
from .evaluation import sliced_wasserstein
from .losses import LOSSES, ConsistencyLoss, EDMLoss, LossOut
from .networks import NETWORKS, MLPConfig, UNetConfig, build_network
from .noise import SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, expand, karras_sigmas, sampling_sigmas
from .oracle import FiniteData, Gaussian, GaussianMixture
from .presets import PRESETS, Preset, get_preset, run
from .samplers import SAMPLERS, Step, default_sigmas, initial_noise, sample
from .training import TrainState, fit

__all__ = [
    "CONSISTENCY",
    "Coeffs",
    "ConsistencyLoss",
    "DATASETS",
    "Denoise",
    "Denoiser",
    "Distance",
    "EDITS",
    "EDM",
    "EDMLoss",
    "Edit",
    "FiniteData",
    "Gaussian",
    "GaussianMixture",
    "LOSSES",
    "LossOut",
    "MLPConfig",
    "NETWORKS",
    "PRESETS",
    "Precond",
    "Preset",
    "SAMPLERS",
    "SIGMA_DATA",
    "SIGMA_MAX",
    "SIGMA_MIN",
    "Step",
    "TrainState",
    "UNetConfig",
    "__version__",
    "apply_edit",
    "build_network",
    "conditioned",
    "default_sigmas",
    "expand",
    "fit",
    "get_preset",
    "initial_noise",
    "karras_sigmas",
    "load",
    "load_data",
    "pretrained_names",
    "run",
    "run_edit",
    "sample",
    "sampling_sigmas",
    "save",
    "slerp",
    "sliced_wasserstein",
]
