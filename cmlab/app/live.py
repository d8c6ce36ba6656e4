"""Training that the plane in the browser watches, without gradio: a second of it at a time, so that it can be paused and shared."""

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from ..base.registry import DATASETS, LOSSES
from ..base.suggest import unknown
from ..data import MixtureData, load_data
from ..denoiser import Denoiser
from ..formats import checkpoints
from ..oracle import GaussianMixture
from ..training.fit import TrainState
from ..training.presets import PRESETS, Preset, get_preset, run
from .browser import described_model
from .view import DRAWN

SPREAD = 0.08  # of a drawn point, in standard deviations of all of them; plane/maths.js has the same
MAX_POINTS, MAX_METHODS = 400, 3
SLICE = 1.0  # seconds of training between two looks at it
KEPT = 64  # trainings that wait to be continued, some MB each; those that were left longest ago go first


def plane_data(distribution: str, points: Any = None) -> MixtureData:
    """A 2D set by name, or drawn points, flat [x0, y0, x1, y1, ...] in the plane's units: they stay where they are."""
    if distribution != DRAWN:
        data = load_data(distribution) if distribution in DATASETS.of_kind("toy") else None
        if not isinstance(data, MixtureData):
            raise ValueError(unknown("distribution", distribution, [*DATASETS.of_kind("toy"), DRAWN]))
        return data
    given = points if isinstance(points, list) else []
    flat = [float(p) for p in given if isinstance(p, (int, float)) and abs(p) <= 5]
    if len(flat) != len(given) or len(flat) % 2 or not 4 <= len(flat) <= 2 * MAX_POINTS:
        raise ValueError(f"Draw between 2 and {MAX_POINTS} points, or choose one of the ready distributions.")
    means = torch.tensor(flat, dtype=torch.float64).reshape(-1, 2)
    size = float(means.std(0, correction=0).square().mean().sqrt())
    if size < 1e-3:
        raise ValueError("The drawn points lie on one spot: draw more, or choose one of the ready distributions.")
    return MixtureData(GaussianMixture(torch.full((len(means),), 1 / len(means), dtype=torch.float64), means, SPREAD * size))


def live_preset(method: str, steps: int, batch: int, seed: int, init: str = "") -> Preset:
    """The preset of ``method`` in the plane for a training of another length, from the bundled checkpoint ``init`` if given."""
    if method not in LOSSES:
        raise ValueError(unknown("method", method, LOSSES))
    preset = get_preset(f"{init.rpartition('-')[0] or DATASETS.of_kind('toy')[0]}-{method}")
    # The averaged weights are a mean over the same share of the training, so of fewer steps.
    ema = 1 - min(1.0, (1 - preset.ema) * preset.steps / steps)
    network, start = preset.network, ""
    if init:
        # The bundled file, not a run of the user's own; and its network, which need not be the preset's.
        start = str(checkpoints.resolve(init))
        network = checkpoints.load(start)[0].config
    return replace(preset, network=network, init=start, steps=steps, batch=batch, ema=ema, seed=seed)


class Training:
    """Methods that learn one set side by side, from one seed. Those with a teacher get the exact PF-ODE.

    Students start from the diffusion model where one of that set is bundled.
    """

    def __init__(self, data: MixtureData, name: str, methods: Sequence[str], steps: int, batch: int, seed: int, device: Any):
        self.name, self.steps, self.step, self.spent, self.lock = name, steps, 0, 0.0, threading.Lock()
        self.runs: dict[str, Iterator[TrainState]] = {}
        self.origins: dict[str, str] = {}
        for method in methods:
            known = PRESETS.get(f"{name}-{method}")
            init = known.init if known is not None and known.init in checkpoints.pretrained_names() else ""
            preset = live_preset(method, steps, batch, seed, init)
            teacher = data.oracle if preset.loss.needs_teacher else None
            self.origins[method] = f"from {init or 'random weights'}" + (", teacher: the exact PF-ODE" if teacher else "")
            self.runs[method] = run(preset, min(20, max(1, steps // 10)), device, teacher=teacher, data=data)

    def go_on(self, seconds: float) -> dict[str, Any]:
        """Train for so long, at least some steps of each method, and tell what has become of them: `described_model` and losses."""
        with self.lock:
            begun, losses = time.monotonic(), {method: [] for method in self.runs}
            states: dict[str, TrainState] = {}
            while not states or (self.step < self.steps and time.monotonic() < begun + seconds):
                for method, states_of in self.runs.items():
                    state = states[method] = next(states_of)
                    losses[method].append([state.step, state.loss])
                self.step = next(iter(states.values())).step
            self.spent += time.monotonic() - begun
            models = [  # at the step that was just made
                described_model(cast(Denoiser, state.ema), self.name, method, (state.step - 1) / self.steps)
                | {"losses": losses[method], "speed": state.images_per_s, "origin": self.origins[method]}
                for method, state in states.items()
            ]
        return {"step": self.step, "steps": self.steps, "seconds": self.spent, "done": self.step == self.steps, "models": models}


_KEPT: OrderedDict[str, Training] = OrderedDict()
_KEEPING = threading.Lock()


def began(training: Training) -> str:
    """Keep a training; the name that it is continued by, which nobody can guess."""
    name = secrets.token_urlsafe(12)
    with _KEEPING:
        _KEPT[name] = training
        while len(_KEPT) > KEPT:
            _KEPT.popitem(last=False)
    return name


def go_on(name: str, share: float = 1.0) -> dict[str, Any]:
    """The next part of a training that was kept, that ``share`` of the usual seconds. At its end, or a fault, it is forgotten.

    Raises ValueError for none that was kept.
    """
    with _KEEPING:
        training = _KEPT.get(name)
        if training is None:
            raise ValueError("This training is over, or was left for too long: press Train again.")
        _KEPT.move_to_end(name)
    over = True
    try:
        told = training.go_on(share * SLICE)
        over = told["done"]
        return {"run": name, **told}
    except StopIteration:  # another call has brought it to its end
        raise ValueError("This training is over: press Train again.") from None
    finally:
        if over:
            with _KEEPING:
                _KEPT.pop(name, None)


def warm_up() -> None:
    """Do a little of everything once: otherwise the first use of a tab waits for imports (scikit-learn, torch's optimizers)."""
    load_data("digits")
    name = DATASETS.of_kind("toy")[0]
    # The second imports what differentiates in forward mode.
    Training(plane_data(name), name, ("edm", "ccd"), 1, 16, 0, "cpu").go_on(0)
