"""'cmlab likelihood': how many bits per dimension a diffusion model needs for its data."""

from dataclasses import dataclass
from typing import ClassVar

from ..base.registry import DATASETS
from .options import Checkpoint, Device


@dataclass(frozen=True)
class LikelihoodOptions:
    """Measure how many bits per dimension a diffusion model needs for its data.

    Args:
        n: number of samples of the data.
        seed: seed of the data and of all noise.
        data: data set to measure on; by default the one that the model was trained on.
        probes: random probes for Hutchinson's estimate of the trace; 0 takes the exact trace, slow for pictures.
        bin_width: distance of two grey levels of pictures in [-1, 1]; by default 2/255. 'digits' has 1/8.
        dequantize: add uniform noise of one bin width to the pictures first.
    """

    lists: ClassVar = ((DATASETS,),)
    checkpoint: Checkpoint
    n: int = 256
    seed: int = 0
    data: str | None = None
    probes: int = 0
    bin_width: float | None = None
    dequantize: bool = False
    device: Device = "auto"


def likelihood(o: LikelihoodOptions) -> None:
    """Run 'cmlab likelihood': print the bits, and beside them those of the data's own density where it is known."""
    import torch

    from ..base.device import choose_device
    from ..data import MixtureData
    from ..methods.likelihood import bits_per_dim, log_likelihood
    from ..samplers import level_range
    from .common import load, of_data

    if o.n < 2 or o.probes < 0:
        raise ValueError(f"--n must be at least 2 and --probes at least 0, got {o.n} and {o.probes}")
    device = choose_device(o.device)
    model, meta, _ = load(o.checkpoint, device)
    data, name = of_data(o.checkpoint, model, meta, o.data)
    source = torch.Generator().manual_seed(o.seed)
    x0, label = data.batch(o.n, source)
    result = log_likelihood(
        model,
        x0.to(device),
        label.to(device) if label is not None and model.classes else None,
        trace="hutchinson" if o.probes else "exact",
        probes=max(o.probes, 1),
        noise=source if o.probes or o.dequantize else None,
        bin_width=o.bin_width,
        dequantize=o.dequantize,
    )
    bits = result.bits_per_dim.cpu()
    found = f"{bits.mean():.4f} +- {float(bits.std()) / o.n**0.5:.4f} bits per dimension, {result.nfe} evaluations"
    print(f"{o.checkpoint} on {o.n} samples of {name}: {found}")
    if isinstance(data, MixtureData) and o.bin_width is None:
        exact = bits_per_dim(data.oracle.log_prob(x0.double(), level_range(model)[0]), x0[0].numel())
        above = bits - exact
        error = float(above.std()) / o.n**0.5
        print(f"the data's own density on them: {exact.mean():.4f}; the model needs {above.mean():.4f} +- {error:.4f} more")
