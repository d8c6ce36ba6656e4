"""Make the pictures of bundled models in the README and docs: python benchmarks/figures.py [FOLDER]"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure

from cmlab import editing
from cmlab.data import load_images
from cmlab.formats.checkpoints import load
from cmlab.plots import plot_images
from cmlab.samplers import sample


def grids(data: str, examples: str = "") -> Figure:
    """Three models from the same noise, one column per class, two samples each; first real pictures, of the set ``examples``."""
    seeds, label, real = list(range(20)), torch.arange(20) % 10, load_images(examples or data)
    assert real.label is not None
    rows = {"data": real.take(torch.stack([(real.label == k).nonzero()[:2, 0] for k in range(10)], 1).flatten())}
    for name, method, sampler, steps in (
        ("EDM, 18 Heun steps", "edm", "heun", 18),
        ("CD, 1 step", "cd", "multistep", 1),
        ("iCT, 1 step", "ict", "multistep", 1),
        ("iCT, 2 steps", "ict", "multistep", 2),
    ):
        model, _ = load(f"{data}-{method}")
        rows[name] = sample(model, model.shape, seeds, sampler, steps, label=label)
    return plot_images(rows, f"{data}: the same noise and class in every column", scale=0.42)


def edits() -> dict[str, Figure]:
    """Original, what the model is given, result: one picture per task, on eight coloured digits."""
    model, _ = load("digits-color-cd")
    data = load_images("digits-color")
    assert data.label is not None
    pick = torch.tensor([1797 * (k % 6) + int((data.label[:1797] == k + 1).nonzero()[5]) for k in range(8)])
    y, label = data.x0[pick], data.label[pick]
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    stroke = torch.nn.functional.interpolate(torch.nn.functional.avg_pool2d(y, 2), scale_factor=2.0)
    tasks = {
        "inpaint": editing.inpaint(y, editing.preset_mask("bottom", (8, 8))),
        "colorize": editing.colorize(y),
        "super_resolve": editing.super_resolve(y, 2),
        "stroke": editing.stroke(stroke),
        "denoise": editing.denoise(y + 0.5 * noise, 0.5),
    }
    return {
        name: plot_images(
            {"original": y, "given": task.degraded, "result": editing.apply_edit(model, task, list(range(8)), label=label)}, name
        )
        for name, task in tasks.items()
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent / "figures")
    folder.mkdir(parents=True, exist_ok=True)
    figures = {f"{data}-grid": grids(data) for data in ("digits", "digits-color")} | {f"edit-{k}": f for k, f in edits().items()}
    figures |= {"mnist-grid": grids("mnist", "mnist-examples")}
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", metadata={"Software": None})
        print(folder / f"{name}.png")
