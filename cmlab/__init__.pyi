"""What ``cmlab`` exports: `lazy_loader` reads it when a name is used, type checkers when they look."""

from . import (
    augment as augment,
)
from . import (
    checkpoints as checkpoints,
)
from . import (
    continuous as continuous,
)
from . import (
    data as data,
)
from . import (
    denoiser as denoiser,
)
from . import (
    distances as distances,
)
from . import (
    editing as editing,
)
from . import (
    evaluation as evaluation,
)
from . import (
    guidance as guidance,
)
from . import (
    images as images,
)
from . import (
    likelihood as likelihood,
)
from . import (
    losses as losses,
)
from . import (
    networks as networks,
)
from . import (
    noise as noise,
)
from . import (
    objective as objective,
)
from . import (
    oracle as oracle,
)
from . import (
    presets as presets,
)
from . import (
    samplers as samplers,
)
from . import (
    schedules as schedules,
)
from . import (
    sde as sde,
)
from . import (
    search as search,
)
from . import (
    solvers as solvers,
)
from . import (
    steps as steps,
)
from . import (
    training as training,
)
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
