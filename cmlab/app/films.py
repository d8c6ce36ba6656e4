"""What the app shows of a run beside its pictures: films that the browser plays (film.js), and single samples. Without gradio."""

import base64
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..base.files import png_of
from ..data import load_images
from ..data.pixels import to_pixels
from ..plots.figures import image_grid, picture_of, plot_trajectories
from ..samplers import Step
from .view import MAX_SEED, class_labels, drawn, groups, model_of, plan_of, short, trail, usual, whole

MAX_FILMED = 64  # samples in a film


def as_commanded(x: Tensor, path: str) -> np.ndarray:
    """Samples as ``cmlab sample`` writes them."""
    return picture_of(x, Path(path).stem) if x.ndim == 4 else drawn(picture_of, x, Path(path).stem)


def as_read(x: Tensor) -> np.ndarray:
    """A picture (1, C, H, W) in its own size, which `read_picture` reads as it is."""
    pixels = to_pixels(x[0]).cpu().permute(1, 2, 0).numpy()
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def address(pixels: np.ndarray) -> str:
    """The address of a picture that holds the picture itself."""
    return "data:image/png;base64," + base64.b64encode(png_of(pixels)).decode()


def sheet(frames: Sequence[Tensor], columns: int) -> str:
    """Batches of pictures as one, each batch a grid, side by side."""
    return address(np.concatenate([image_grid(x, columns) for x in frames], axis=1))


def film(tracks: Mapping[str, Sequence[Tensor]], labels: Sequence[str], close: Sequence[str] = (), **more: Any) -> dict[str, Any]:
    """What film.js plays: ``tracks``, by title, of batches (N, C, H, W) that are all of one size, and a label for each frame.

    Of many samples the first 64 are in it. Tracks that are named in ``close`` are seen beside a single sample.
    """
    first = next(iter(tracks.values()))[0]
    count, (h, w) = min(len(first), MAX_FILMED), first.shape[2:]
    columns, strip = math.ceil(math.sqrt(count)), math.ceil(math.sqrt(len(first)))
    shown = [
        {"title": title, "src": sheet([x[:count] for x in frames], columns), "frames": len(frames), "close": title in close}
        for title, frames in tracks.items()
    ]
    own = {"columns": columns, "count": count, "size": [w, h], "strip": strip, "pictures": len(first)}
    return {"tracks": shown, "labels": list(labels), **own, **more}


def film_of(steps: Sequence[Step], others: Mapping[str, Sequence[Step]] = MappingProxyType({}), **more: Any) -> dict[str, Any]:
    """How samples came about: the noisy state after every step, the guess made at it, and the guesses of ``others`` for one sample.

    Points are one frame: their paths.
    """
    if steps[0].x.ndim == 2:
        path, sigmas = torch.stack([step.x[:24] for step in steps]), torch.tensor([step.sigma_next for step in steps])
        paths = {"title": "Paths", "src": address(drawn(plot_trajectories, path, sigmas)), "frames": 1}
        return {"tracks": [paths], "labels": ["the paths of the first samples"], "columns": 1, "count": 1}
    tracks = {"Noisy state": [s.x for s in steps], "Guess of the end": [s.x0_hat for s in steps]}
    labels = [f"step {k + 1} of {len(steps)} · σ {s.sigma:.3g} → {s.sigma_next:.3g} · {s.nfe} NFE" for k, s in enumerate(steps)]
    return film(tracks | {name: [s.x0_hat for s in own] for name, own in others.items()}, labels, tuple(others), **more)


# --- one sample of a run ---------------------------------------------------------------------------------------------------


def one_of(about: Any, k: Any) -> dict[str, Any]:
    """Sample ``k`` of a run that a film tells ``about``: its data set, its model, its own seed, and its class if it has one."""
    group = groups().get(str((about if isinstance(about, dict) else {}).get("data")))
    if group is None or not group.is_image:
        raise ValueError(f"No pictures of {short(about)} can be chosen.")
    seed = whole("The seed", about.get("seed"), -MAX_SEED, MAX_SEED) + (k := whole("The sample", k, 0, MAX_FILMED - 1))
    label = class_labels(group, str(about.get("class_name")), k + 1)
    kind = None if label is None else group.class_names[int(label[k])]
    return {"data": group.name, "method": usual(group), "seed": seed, "class_name": kind}


@torch.no_grad()
def drawn_again(one: dict[str, Any], device: torch.device | str = "cpu") -> Tensor:
    """The sample (1, C, H, W) that the model of `one_of` makes."""
    group, method = groups()[one["data"]], one["method"]
    label = class_labels(group, one["class_name"] or "all", 1, device)
    chosen = plan_of(group, method, device=device)
    *_, (step, _) = trail(model_of(group, method, device), group.shape, [one["seed"]], chosen.sampler, chosen.sigmas, label, device)
    return step.x.cpu()


def nearest(data: str, x: Tensor, most: int = 6) -> list[tuple[Tensor, float]]:
    """The training pictures (C, H, W) nearest to x (1, C, H, W), each with its root mean square distance.

    Raises ValueError where they are not on this machine.
    """
    try:
        known = _training(groups()[data].data)
    except (OSError, ValueError) as error:
        raise ValueError(f"The training pictures of {data} are not on this machine: {error}") from error
    parts = torch.arange(len(known)).split(4096)
    distances = torch.cat([(known.take(part) - x.float()).square().flatten(1).mean(1).sqrt() for part in parts])
    closest = distances.topk(most, largest=False)
    return [(known.take(k[None])[0], float(d)) for d, k in zip(closest.values, closest.indices, strict=True)]


@lru_cache(maxsize=2)
def _training(data: str) -> Any:
    return load_images(data)
