"""The published networks have their published sizes, and the bundled ones their outputs."""

import pytest
import torch

from cmlab.formats import checkpoints
from cmlab.networks import build_network
from cmlab.networks.adm import IMAGENET64, LSUN256
from cmlab.networks.song import DDPMPP, NCSNPP


@pytest.mark.parametrize(
    ("config", "shape", "classes", "count"),
    [
        (IMAGENET64, (3, 64, 64), 1000, 295_899_267),
        (LSUN256, (3, 256, 256), 0, 526_304_771),
        (DDPMPP, (3, 32, 32), 0, 55_732_739),
        (NCSNPP, (3, 32, 32), 0, 56_395_523),
    ],
)
def test_published_sizes_to_the_parameter(config, shape, classes, count):
    with torch.device("meta"):
        net = build_network(config, shape, classes)
    assert sum(p.numel() for p in net.parameters()) == count


# Last pixel and root mean square of each of three samples, computed before the U-Net got its options.
BUNDLED = {
    "digits-cd": ([-1.03799, -0.934039, -0.994423], [0.708968, 0.786309, 0.836395]),
    "digits-color-edm": ([0.916903, -0.4196, -0.674863], [0.649805, 0.353258, 0.51463]),
}


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_networks_keep_their_outputs(name):
    model, _ = checkpoints.load(name)
    k, sigma = torch.arange(3 * torch.Size(model.shape).numel()).reshape(3, *model.shape), torch.tensor([0.05, 1.0, 40.0])
    x = torch.sin(0.37 * k) * (1 + sigma.reshape(-1, *[1] * len(model.shape)))
    with torch.no_grad():
        out = model(x, sigma, torch.tensor([0, 4, 9]) if model.classes else None).flatten(1)
    for got, want in zip((out[:, -1], out.square().mean(1).sqrt()), BUNDLED[name], strict=True):
        assert torch.allclose(got, torch.tensor(want), rtol=0, atol=5e-6)
