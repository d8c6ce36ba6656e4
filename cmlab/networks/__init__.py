"""Networks F(x, c_noise, label) -> shape of x, by name. Each is built from its frozen configuration."""

from torch import nn

from .adm import UNet, UNetConfig
from .mlp import MLP, MLPConfig
from .song import SongUNet, SongUNetConfig

NetworkConfig = MLPConfig | UNetConfig | SongUNetConfig
NETWORKS: dict[str, tuple[type, type[nn.Module]]] = {
    "mlp": (MLPConfig, MLP),
    "unet": (UNetConfig, UNet),
    "song": (SongUNetConfig, SongUNet),
}


def build_network(config: NetworkConfig, shape: tuple[int, ...], classes: int = 0) -> nn.Module:
    """The network that ``config`` describes, for samples of ``shape`` with ``classes`` classes (0: unconditional)."""
    return NETWORKS[network_name(config)][1](config, tuple(shape), classes)


def network_name(config: NetworkConfig) -> str:
    """The registry name of a configuration's class."""
    for name, (kind, _) in NETWORKS.items():
        if isinstance(config, kind):
            return name
    raise ValueError(f"no network is registered for {type(config).__name__}: NETWORKS has {', '.join(NETWORKS)}")
