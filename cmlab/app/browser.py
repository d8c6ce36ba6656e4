"""The plane that lives in the browser: its module, in plane/, and what it is given. Without gradio."""

import base64
import json
import re
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..base.registry import DATASETS, LOSSES
from ..data.load import load_toy
from ..denoiser import Denoiser, Precond
from ..formats import checkpoints
from ..networks import MLPConfig
from ..oracle import GaussianMixture

FOLDER = Path(__file__).parent / "plane"
MODULES = ("maths.js", "draw.js", "scene.js", "panel.js", "plane.js")  # in the order in which they can stand in one file


@lru_cache(maxsize=1)
def script() -> str:
    """The module as one file: the sources one after the other, without their types and without the imports between them."""
    text = "\n".join((FOLDER / name).read_text("utf-8") for name in MODULES)
    text = re.sub(r"(?m)^(import [^;]*;|// @ts-check)\n", "", text)
    return re.sub(r"/\*\*(.*?)\*/(\n *| |)", _untyped, text, flags=re.DOTALL)


def _untyped(comment: re.Match[str]) -> str:
    """A comment of a source without its tags, which are for the checker of types; nothing where it has no other words."""
    words = comment[1].split("@")[0].strip(" *\n")
    return f"/** {words} */{comment[2]}" if words else ""


def packed(numbers: Tensor, dtype: torch.dtype) -> str:
    """Numbers as the module reads them: base64 of their bytes, float64 or float32, little-endian."""
    return base64.b64encode(numbers.detach().cpu().to(dtype).contiguous().numpy().tobytes()).decode()


def described_mixture(oracle: GaussianMixture, help: str = "") -> dict[str, str]:
    """A mixture in the plane, for the module's ``Mixture.from``."""
    parts = {"means": oracle.means.flatten(), "stds": oracle.stds, "weights": oracle.weights}
    return {name: packed(part, torch.float64) for name, part in parts.items()} | {"help": help}


def weights_of(model: Denoiser) -> str:
    """The numbers of a model's network, float32, in the order of its parameters."""
    return packed(torch.cat([p.flatten() for p in model.net.parameters()]), torch.float32)


def described_model(model: Denoiser, data: str, method: str) -> dict[str, Any]:
    """A model for the module's ``Model``; raises ValueError for one that is no MLP in the plane with EDM's scalings."""
    config, precond = model.config, model.precond
    if not isinstance(config, MLPConfig) or not isinstance(precond, Precond) or model.shape != (2,) or model.classes:
        raise ValueError("the plane takes models of points: an MLP of samples (2,) without classes, in the scalings of EDM")
    about = {"data": data, "method": method, "label": LOSSES.record(method).label, "consistency": precond.consistency}
    return about | asdict(precond) | asdict(config) | {"weights": weights_of(model)}


def bundled_models() -> list[str]:
    """Names of the bundled models in the plane, the diffusion model of each set first."""
    toys = DATASETS.of_kind("toy")
    names = [name for name in checkpoints.pretrained_names() if name.rpartition("-")[0] in toys]
    methods = list(LOSSES)
    return sorted(names, key=lambda name: (toys.index(name.rpartition("-")[0]), methods.index(name.rpartition("-")[2])))


def contents(models: Iterable[str] | None = None) -> dict[str, Any]:
    """What the module shows: every 2D set, and the models of these names (default: all bundled ones), with their weights."""
    sets = {name: described_mixture(load_toy(name).oracle, DATASETS.record(name).help) for name in DATASETS.of_kind("toy")}
    trained = []
    for name in bundled_models() if models is None else models:
        path = checkpoints.resolve(name) if models is None else checkpoints.find(name)
        data, _, method = path.stem.rpartition("-")
        if data not in sets or method not in LOSSES:
            raise ValueError(f"{path.name} is not called SET-METHOD with one of the sets {', '.join(sets)}: rename it")
        trained.append(described_model(checkpoints.load(path)[0], data, method))
    return {"sets": sets, "models": trained, "style": (FOLDER / "plane.css").read_text("utf-8")}


def embedded(value: Any) -> str:
    """A value as a literal that may stand in a script of a page: nothing in it ends the script."""
    return json.dumps(value).replace("<", "\\u003c")


def page(models: Iterable[str] | None = None, **options: str | bool) -> str:
    """A page that holds the plane and all that it needs: it opens from a disk, without a server, and asks nobody for anything.

    ``models`` are names or paths of checkpoints in the plane (default: all bundled ones); ``set`` and ``mode`` say what it shows
    first, ``play`` whether it walks at once.
    """
    text = (FOLDER / "page.html").read_text("utf-8")
    for mark, part in (("SCRIPT", script()), ("CONTENTS", embedded(contents(models))), ("OPTIONS", embedded(options))):
        text = text.replace(f"/* {mark} */", part)
    return text


# In gradio's component: the module and what it shows come when the tab is opened for the first time.
ON_LOAD = """(async () => {
  const {script, contents} = await server.everything();
  const module = await import(URL.createObjectURL(new Blob([script], {type: 'text/javascript'})));
  element.plane = module.mount(element.querySelector('div'), contents, {set: 'two-moons'});
})();"""


def everything(_: object = None) -> dict[str, Any]:
    """What the app's server hands over at one call, which gradio makes with one value: the module's text and what it shows."""
    return {"script": script(), "contents": contents()}
