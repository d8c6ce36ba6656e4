"""The plane that lives in the browser: its module, in plane/, and what it is given. Without gradio."""

import base64
import json
import math
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
from ..denoiser import Denoiser
from ..formats import checkpoints
from ..networks import MLPConfig
from ..noise import SIGMA_MAX, SIGMA_MIN
from ..oracle import GaussianMixture
from ..samplers import level_range

FOLDER = Path(__file__).parent / "plane"
# In the order in which they can stand in one file.
MODULES = ("maths.js", "draw.js", "answers.js", "scene.js", "train.js", "panel.js", "plane.js")
NODES = 257  # noise levels at which the module is told a model's scalings: between them it errs by less than 1e-7


@lru_cache(maxsize=1)
def script() -> str:
    """The module as one file: the sources one after the other, without comments, types and the imports between them."""
    text = "\n".join((FOLDER / name).read_text("utf-8") for name in MODULES)
    text = re.sub(r"(?m)^import [^;]*;\n|^ *//.*\n|  // .*$", "", text)
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"(?m)^ */\*\*.*?\*/\n|/\*\*.*?\*/ ?", "", text, flags=re.DOTALL))


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


def described_model(model: Denoiser, data: str, method: str, progress: float = 1.0) -> dict[str, Any]:
    """A model for the module's ``Model``, at that share of its training; raises ValueError for one that is no MLP in the plane."""
    config, traits = model.config, model.traits
    if not isinstance(config, MLPConfig) or model.shape != (2,) or model.classes:
        raise ValueError("the plane takes models of points: an MLP of samples (2,) without classes")
    record = LOSSES.record(method)
    about = {"data": data, "method": method, "label": record.label, "consistency": traits.consistency, "low": level_range(model)[0]}
    about["steps"] = record.value().sampled(progress).get("steps", 0)
    levels = torch.linspace(math.log(SIGMA_MIN), math.log(SIGMA_MAX), NODES, dtype=torch.float64).exp()
    levels[0], levels[-1] = SIGMA_MIN, SIGMA_MAX
    scalings = packed(torch.stack(model.precond(levels)), torch.float64)
    return about | asdict(config) | {"scalings": scalings, "weights": weights_of(model)}


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
    methods = [[loss.name, loss.label, loss.help] for loss in LOSSES.records()]
    style, frame = ((FOLDER / name).read_text("utf-8") for name in ("plane.css", "frame.html"))
    return {"sets": sets, "models": trained, "methods": methods, "style": style, "frame": frame}


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


# In gradio's component: the module and what it shows come when the tab is opened for the first time. A training is asked for as
# by any program, a second of it at a time: so it waits in the queue, and can be left at any moment.
ON_LOAD = """(async () => {
  const {root, api_prefix} = window.gradio_config, address = `${root}${api_prefix}/call/train`;
  const train = async (data, session_hash) => {
    const head = {'Content-Type': 'application/json'}, body = JSON.stringify({data, session_hash});
    const sent = await fetch(address, {method: 'POST', headers: head, body}), {event_id, detail} = await sent.json();
    if (sent.status === 503) return null;
    if (!sent.ok) throw new Error(detail);
    const said = await (await fetch(`${address}/${event_id}`)).text(), last = said.match(/event: (complete|error)\\ndata: (.*)/);
    if (!last) throw new Error('The connection to the app was lost.');
    const told = JSON.parse(last[2]);
    if (last[1] === 'error') throw new Error((told && told.error) || told || 'The app did not answer.');
    return told[0];
  };
  const {script, contents} = await server.everything();
  const module = await import(URL.createObjectURL(new Blob([script], {type: 'text/javascript'})));
  element.plane = module.mount(element.querySelector('div'), contents, {set: 'two-moons', train});
  window.cmlab?.plane(element.plane);
})();"""


def everything(_: object = None) -> dict[str, Any]:
    """What the app's server hands over at one call, which gradio makes with one value: the module's text and what it shows."""
    return {"script": script(), "contents": contents()}
