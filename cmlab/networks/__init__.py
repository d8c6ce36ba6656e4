"""Networks F(x, c_noise, label) -> shape of x, by name. Each is built from its frozen configuration."""

from torch import nn

from ..base.registry import NETWORKS
from .adm import UNet, UNetConfig
from .layers import NetworkConfig
from .mlp import MLP, MLPConfig
from .song import SongUNet, SongUNetConfig

__all__ = [
    "NETWORKS", "MLP", "MLPConfig", "NetworkConfig", "SongUNet", "SongUNetConfig", "UNet", "UNetConfig",
    "build_network", "network_name",
]  # fmt: skip


def build_network(config: NetworkConfig, shape: tuple[int, ...], classes: int = 0) -> nn.Module:
    """The network that ``config`` describes, for samples of ``shape`` with ``classes`` classes (0: unconditional)."""
    return NETWORKS[network_name(config)](config, tuple(shape), classes)


def network_name(config: NetworkConfig) -> str:
    """The registry name of a configuration's class."""
    for record in NETWORKS.records():
        if isinstance(config, record.facts["config"]):
            return record.name
    if config is None:
        way = "give it one, a frozen dataclass from which it is built, and register both (docs/extending.md)"
        raise ValueError(f"this network has no config: {way}, so that a file can say what it holds")
    raise ValueError(f"no network is registered for {type(config).__name__}: NETWORKS has {', '.join(NETWORKS)}")
