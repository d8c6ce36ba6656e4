"""The app's 2D playground, without gradio: drawn distributions, exact flows, and training that can be watched."""

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..base.registry import DATASETS, LOSSES
from ..base.suggest import unknown
from ..data import MixtureData, drawn_points, load_data
from ..evaluation.points import sliced_wasserstein
from ..formats import checkpoints
from ..noise import sampling_sigmas, seeds_from
from ..samplers import heun, initial_noise, plan
from ..training.presets import Preset, get_preset, run
from .paint import paint_of
from .view import DRAWN, drawn, label_of, trail


def drawing_points(editor: dict | None, limit: int = 400) -> list[tuple[float, float]]:
    """Points of a drawing, y upwards; at most ``limit``, evenly taken. Raises ValueError for an empty canvas."""
    painted = paint_of(editor)
    y, x = np.nonzero(painted) if painted is not None else (np.empty(0), np.empty(0))
    if len(x) < 2:
        raise ValueError("Nothing is drawn: draw on the canvas, or choose one of the ready distributions.")
    keep = np.random.default_rng(0).permutation(len(x))[:limit]
    return [(float(x[k]), float(-y[k])) for k in keep]


def plane_data(distribution: str, drawing: dict | None) -> MixtureData:
    """A 2D set by name, or the one that was drawn."""
    data = drawn_points(drawing_points(drawing), 0.08) if distribution == DRAWN else load_data(distribution)
    if not isinstance(data, MixtureData):
        raise ValueError(f"{distribution!r} is not a distribution in the plane.")
    return data


def exact_flow(data: MixtureData, count: int, steps: int, noise_level: float, seed: int) -> tuple[np.ndarray, np.ndarray, Any]:
    """Pictures of the exact paths and of the exact consistency function at ``noise_level``, and the paths as a plotly figure."""
    from .. import plots

    noise, sigmas = initial_noise((2,), seeds_from(seed, count)), sampling_sigmas(steps)
    path = torch.stack([noise, *(step.x for step in heun(data.oracle, noise, sigmas))])
    clean = data.batch(1500, torch.Generator().manual_seed(seed))[0]
    start = clean[:100].double() + initial_noise((2,), seeds_from(seed, 100), noise_level)
    end = data.oracle.consistency(start, torch.tensor(noise_level, dtype=torch.float64))
    paths = drawn(plots.plot_trajectories, path, sigmas, data=clean)
    arrows = drawn(plots.plot_consistency, start, end, f"f(x, σ) at σ = {noise_level:g}", clean)
    return paths, arrows, plots.trajectories_3d(path, sigmas)


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


def train_live(
    data: MixtureData, method: str, steps: int, batch: int, seed: int, init: str = "", device: torch.device | str = "cpu"
) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """Train a small network on ``data`` and yield, about three times a second, its samples, its loss, and both in words.

    The samples come from one fixed noise, so what moves in the picture is the network. ``init`` names a checkpoint to start from.
    Losses with a teacher get the exact one.
    """
    from .. import plots

    preset = live_preset(method, steps, batch, seed, init)
    loss: Any = preset.loss
    n = 600
    truth = data.batch(n, torch.Generator().manual_seed(seed))[0]
    losses: tuple[list, list] = ([], [])
    begun, drawn_at, pause = time.monotonic(), -math.inf, 0.0
    origin = f"from {init or 'random weights'}" + (", teacher: the exact PF-ODE" if loss.needs_teacher else "")
    teacher = data.oracle if loss.needs_teacher else None
    for state in run(preset, min(20, max(1, steps // 10)), device, teacher=teacher, data=data):
        losses[0].append(state.step)
        losses[1].append(state.loss)
        clock = time.monotonic()
        if clock - drawn_at < pause and state.step < steps:
            continue
        own = loss.sampled((state.step - 1) / steps)  # of the step that was just made
        chosen = plan(state.ema, about=own)
        *_, (last, _) = trail(state.ema, (2,), seeds_from(0, n), chosen.sampler, chosen.sigmas, None, device)
        made = last.x.cpu()
        samples = drawn(plots.plot_points, {"data": truth, f"{label_of(method)}, {last.nfe} NFE": made}, size=3.4)
        curve = drawn(plots.plot_curves, {"loss": losses}, "training step", "loss")
        now = time.monotonic()
        text = (
            f"**{label_of(method)}**, step {state.step} of {steps}{f' (N = {chosen.steps})' if own else ''}"
            f" · loss {state.loss:.3g}"
            f" · sliced Wasserstein distance {sliced_wasserstein(made, truth):.3f} · speed of training: {state.images_per_s:,.0f}"
            f" samples/s · {now - begun:.1f} s in all, with pictures · {origin}"
        )
        yield samples, curve, text
        drawn_at = time.monotonic()
        pause = max(0.3, 2 * (drawn_at - clock))  # on a slow machine too, most of the time goes into learning


def warm_up() -> None:
    """Do a little of everything once: otherwise the first use of a tab waits for imports (scikit-learn, torch's optimizers)."""
    load_data("digits")
    data = plane_data(DATASETS.of_kind("toy")[0], None)
    exact_flow(data, 1, 2, 1.0, 0)
    for method in ("edm", "ccd"):  # the second imports what differentiates in forward mode
        for _ in train_live(data, method, 1, 16, 0):
            pass
