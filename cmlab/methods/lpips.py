"""LPIPS, the learned perceptual distance of images on VGG's features (Zhang et al., 2018), with piq's weights."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..base.files import user_path
from ..base.registry import DISTANCES
from ..distances import Perceptual, equal_images, resized


@DISTANCES.register("lpips", "LPIPS", "the learned perceptual distance of images, on VGG's features")
def lpips(
    a: Tensor,
    b: Tensor,
    resize: int = 224,
    pooling: Literal["max", "avg"] = "max",
    path: str | None = None,
    network: Perceptual | None = None,
) -> Tensor:
    """The learned perceptual distance of images (B, 3 or 1, H, W) in [-1, 1] on VGG-16 features, (B,) (Zhang et al., 2018; piq).

    Args:
        resize: images narrower than 256 pixels are resized to this side first, as the CM paper's code does; 0 keeps their size.
        pooling: "max" is LPIPS as published; "avg" replaces VGG's pooling, as openai's consistency models are trained.
        path: the folder that holds the two weight files; None is torch.hub's, into which they are fetched once.
        network: another distance (B, C, H, W) x 2 in [0, 1] -> (B,) instead of VGG's.

    Raises FileNotFoundError that names the files when they are neither there nor to be fetched.
    """
    equal_images(a, b)
    if resize and a.shape[-1] < 256:
        a, b = resized(a, resize), resized(b, resize)
    if network is None:
        if a.shape[1] not in (1, 3):
            raise ValueError(f"LPIPS looks at RGB or grey images, got {a.shape[1]} channels")
        network = load_lpips(pooling, path, a.device, a.dtype)
        a, b = a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)
    # Under autocast the difference of two close images would drown in rounding, and the square of a large feature overflow.
    with torch.autocast(a.device.type, enabled=False):
        return network((a + 1) / 2, (b + 1) / 2)


VGG_FILE, LPIPS_FILE = "vgg16-397923af.pth", "lpips_weights.pt"
_EPS = 1e-10  # piq adds it to the length of a feature vector
_LAYERS = ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, over which VGG was trained


class _VGGDistance(nn.Module):
    """LPIPS of images (B, 3, H, W) in [0, 1], (B,): weighted squared differences of unit features, mean over positions.

    The images have its device and dtype: to move the network inside a call would break the transforms of torch.func.
    """

    def __init__(self, features: nn.Sequential, cuts: Sequence[int], weights: Sequence[Tensor]):
        super().__init__()
        starts = [0, *(cut + 1 for cut in cuts[:-1])]
        self.parts = nn.ModuleList(features[a : b + 1] for a, b in zip(starts, cuts, strict=True))
        for k, weight in enumerate(weights):
            self.register_buffer(f"weight{k}", weight.reshape(1, -1, 1, 1))
        self.mean, self.std = (nn.Buffer(torch.tensor(values).reshape(1, 3, 1, 1)) for values in (_MEAN, _STD))
        self.eval().requires_grad_(False)

    def _features(self, x: Tensor) -> list[Tensor]:
        x, found = (x - self.mean) / self.std, []
        for part in self.parts:
            x = part(x)
            square = x.square().sum(1, keepdim=True)
            # Where all channels are off, sqrt has no gradient; the unit vector is 0 there whatever the length.
            length = torch.where(square > 0, square, 1).sqrt() * (square > 0)
            found.append(x / (length + _EPS))
        return found

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        terms = [
            ((fa - fb).square() * self.get_buffer(f"weight{k}")).mean((2, 3))
            for k, (fa, fb) in enumerate(zip(self._features(a), self._features(b), strict=True))
        ]
        return torch.cat(terms, 1).sum(1)


@lru_cache(maxsize=8)
def load_lpips(
    pooling: Literal["max", "avg"] = "max",
    path: str | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Perceptual:
    """piq's LPIPS on images in [0, 1] of that device and dtype, frozen; draws nothing and executes nothing from the weight files.

    ``piq.LPIPS()`` itself would unpickle whatever the files hold, initialise VGG from the global generator, move its network in
    every call (which breaks torch.func's transforms) and have NaN gradients where all features of a pixel are 0.
    """
    try:
        from piq.perceptual import LPIPS, VGG16_LAYERS
        from torchvision.models import VGG16_Weights, vgg16
    except ImportError as error:
        raise ImportError("the distance 'lpips' needs piq and torchvision: pip install piq") from error
    folder = Path(torch.hub.get_dir()) / "checkpoints" if path is None else user_path(path)
    urls = {VGG_FILE: VGG16_Weights.IMAGENET1K_V1.url, LPIPS_FILE: LPIPS._weights_url}
    for file in urls:
        if not (folder / file).is_file():
            _fetch(folder, urls, file, allowed=path is None)
    with torch.device("meta"):  # no memory for, and no draws into, weights that are replaced at once
        features = vgg16(weights=None, init_weights=False).features
    state = torch.load(folder / VGG_FILE, map_location="cpu", weights_only=True)
    features = features.to_empty(device="cpu")
    features.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if k.startswith("features.")})
    layers: list[nn.Module] = list(features.children())
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False  # a derivative of a derivative needs what came in
    if pooling == "avg":
        layers = [nn.AvgPool2d(2, 2) if isinstance(layer, nn.MaxPool2d) else layer for layer in layers]
    weights = torch.load(folder / LPIPS_FILE, map_location="cpu", weights_only=True)
    network = _VGGDistance(nn.Sequential(*layers), [int(VGG16_LAYERS[name]) for name in _LAYERS], weights)
    return network.to(device, dtype)


def _fetch(folder: Path, urls: dict[str, str], file: str, allowed: bool) -> None:
    """Download one file beside its name and rename it, if allowed; else say what a user can do."""
    cause = None
    if allowed:
        folder.mkdir(parents=True, exist_ok=True)
        digest = Path(file).stem.rpartition("-")[2] if "-" in file else None  # part of the name, as torch has it
        try:
            return torch.hub.download_url_to_file(urls[file], str(folder / file), digest, progress=False)
        except OSError as error:  # urllib's are OSErrors too
            cause = error
    raise FileNotFoundError(
        f"LPIPS needs {' and '.join(urls)}, and {file} is not in {folder}{f' nor to be had ({cause})' if cause else ''}: fetch "
        f"{' and '.join(urls.values())} where there is a network and put them there, or name another folder with path="
    ) from cause
