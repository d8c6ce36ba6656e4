"""Do scribbles become the digit that was asked for? Twenty, as a mouse draws them, edited by a consistency model of MNIST.

    python benchmarks/scribbles.py mnist-cd       (seconds; the second classifier reads the results)

A scribble is a chain of points that a hand would click, drawn by a round brush on a canvas as large as the app's, then brought to
28 x 28 pixels: as thick, as crooked and as badly placed as what visitors paint. Ten by a steady hand, ten by a shaky one.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import torch
from edits import save_figure
from torch import Tensor

from cmlab import apply_edit, load
from cmlab.editing import stroke
from cmlab.evaluation.classifier import to_pixels
from cmlab.evaluation.features import ClassifierFeatures
from cmlab.training.presets import find

CANVAS, SIDE, BRUSH = 392, 28, 17.0
STROKES: dict[int, list[list[tuple[float, float]]]] = {  # x to the right, y down, both from 0 to 1; the digit's strokes
    0: [[(0.5, 0.2), (0.33, 0.28), (0.27, 0.5), (0.34, 0.74), (0.5, 0.82), (0.67, 0.72), (0.73, 0.5), (0.66, 0.28), (0.5, 0.2)]],
    1: [[(0.42, 0.28), (0.53, 0.18), (0.5, 0.82)]],
    2: [[(0.3, 0.32), (0.42, 0.2), (0.62, 0.22), (0.68, 0.38), (0.52, 0.58), (0.3, 0.8), (0.72, 0.8)]],
    3: [[(0.32, 0.22), (0.62, 0.22), (0.66, 0.36), (0.48, 0.47), (0.68, 0.58), (0.66, 0.76), (0.48, 0.82), (0.3, 0.76)]],
    4: [[(0.38, 0.2), (0.28, 0.52), (0.72, 0.54)], [(0.64, 0.26), (0.6, 0.84)]],
    5: [[(0.68, 0.2), (0.36, 0.22), (0.34, 0.46), (0.58, 0.46), (0.68, 0.6), (0.6, 0.78), (0.32, 0.8)]],
    6: [[(0.6, 0.18), (0.4, 0.4), (0.32, 0.62), (0.4, 0.8), (0.58, 0.8), (0.66, 0.66), (0.54, 0.54), (0.36, 0.6)]],
    7: [[(0.28, 0.22), (0.7, 0.22), (0.56, 0.5), (0.46, 0.82)]],
    8: [[(0.5, 0.48), (0.34, 0.36), (0.42, 0.2), (0.6, 0.22), (0.64, 0.36), (0.36, 0.64), (0.42, 0.8), (0.6, 0.8), (0.66, 0.64)]],
    9: [[(0.66, 0.3), (0.5, 0.2), (0.36, 0.3), (0.4, 0.46), (0.58, 0.46), (0.66, 0.3), (0.62, 0.56), (0.54, 0.82)]],
}  # fmt: skip


def drawn(strokes: list[list[tuple[float, float]]], shake: float, seed: int) -> Tensor:
    """A scribble in [-1, 1], (1, 28, 28): ink where the canvas is nearer to a line between two points than the brush is wide."""
    draws = torch.Generator().manual_seed(seed)
    place = (torch.arange(CANVAS) + 0.5) / CANVAS
    pixels = torch.stack(torch.meshgrid(place, place, indexing="xy"), -1)
    away = torch.full((CANVAS, CANVAS), float("inf"))
    moved = shake * torch.randn(2, generator=draws)
    for points in strokes:
        chain = torch.tensor(points) + moved + shake / 2 * torch.randn(len(points), 2, generator=draws)
        for a, b in pairwise(chain):
            along = ((pixels - a) @ (b - a) / (b - a).square().sum()).clamp(0, 1)
            away = torch.minimum(away, (pixels - a - along[..., None] * (b - a)).norm(dim=-1))
    ink = (away < BRUSH / CANVAS).float()
    return 2 * ink.reshape(1, SIDE, CANVAS // SIDE, SIDE, CANVAS // SIDE).mean((2, 4)) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="mnist-cd", help="a consistency model of MNIST")
    parser.add_argument("--features", default="mnist-fast", help="the classifier that reads")
    parser.add_argument("--figures", type=Path, default=Path("benchmarks/figures"), help="folder of the picture")
    o = parser.parse_args()
    torch.set_num_threads(1)
    model, reader = load(find(o.model))[0], ClassifierFeatures(o.features)
    label = torch.arange(20) % 10
    paintings = torch.stack([drawn(STROKES[int(k)], 0.03 if i < 10 else 0.08, i) for i, k in enumerate(label)])
    results = apply_edit(model, stroke(paintings), range(20), label=label)
    for what, x in (("scribbles", paintings), ("results", results)):
        read = reader(to_pixels(x))[1].argmax(1)
        print(f"{what}: {int((read == label).sum())} of 20 are read as the digit that was asked for; read: {read.tolist()}")
    rows = {f"{what} {part}": x[rows] for part, rows in (("1", slice(10)), ("2", slice(10, 20))) for what, x in
            (("scribble", paintings), ("result", results))}  # fmt: skip
    save_figure(o.figures, f"scribbles-{Path(o.model).stem}", rows, "")


if __name__ == "__main__":
    main()
