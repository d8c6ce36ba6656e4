"""What the page says to a visitor who has not read the paper: an introduction with a drawing, a glossary, what each data set is."""

import math
import random
from functools import lru_cache
from pathlib import Path

from ..data.names import title_of
from ..formats import checkpoints
from .view import Group, plain

INTRODUCTION = """
A **diffusion model** makes a picture out of noise: it takes the noise away in many small steps, along a path that has no chance
in it. A **consistency model** learns where that path ends, and jumps there at once.
Here both stand side by side, on the same noise, so you see what a jump costs and what it gains.
"""

GLOSSARY = {
    "noise level σ": "how strong the noise in a picture is: 80 is noise alone, 0 is the finished picture.",
    "PF-ODE": "the probability flow, an ordinary differential equation: it tells from every noisy picture which way to go. "
    "Its paths are the ones in the drawing.",
    "EDM": "the diffusion model of Karras et al. (2022). It walks the path in steps. Here it is the teacher.",
    "CD": "consistency distillation: a student learns the jump from a trained diffusion model.",
    "CT, iCT, ECT": "consistency training and its later forms: a student learns the jump from the data alone.",
    "teacher, student": "the diffusion model that knows the paths, and the consistency model that learns where they end.",
    "two steps": "after the jump a consistency model may add some noise again, weaker than before, and jump once more: the second "
    "jump mends what the first got wrong.",
    "NFE": "number of function evaluations: how often the network was asked. It is the cost of a picture. A guided model asks it "
    "twice in every call: with the class, and without.",
    "Heun": "a way to walk the path that looks one step ahead: two evaluations a step.",
    "slerp": "mixing two noises along a circle, so that the mixture is as strong as they are.",
    "seed": "the number that fixes the noise. The same seed gives the same picture again, in every model its own.",
}

READ_ON = """

Read on: the paper, [Consistency Models](https://arxiv.org/abs/2303.01469) (Song et al., 2023), its teacher's,
[EDM](https://arxiv.org/abs/2206.00364) (Karras et al., 2022), and the lessons: `cmlab lab` opens them.
"""


def drawing() -> str:
    """Noise on the left, data on the right; a path in many steps, and a jump. In the colours of the page, light and dark."""
    draws = random.Random(5)
    noise = [(96 + 38 * draws.gauss(0, 1), 62 + 21 * draws.gauss(0, 1)) for _ in range(110)]
    data = []
    for k in range(90):
        turn = math.pi * draws.random()
        x, y = (math.cos(turn), -math.sin(turn)) if k % 2 else (1 - math.cos(turn), math.sin(turn) - 0.5)
        data.append((610 + 32 * x + 1.8 * draws.gauss(0, 1), 68 + 32 * y + 1.8 * draws.gauss(0, 1)))
    path = [(128 + 450 * t, 58 + 30 * math.sin(2.4 * t) * (1 - t) + 4 * t) for t in (k / 12 for k in range(13))]
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.8"/>' for x, y in noise + data)
    steps = " ".join(f"{x:.1f},{y:.1f}" for x, y in path)
    marks = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>' for x, y in path)
    (x0, y0), (x1, y1) = path[0], path[-1]
    return f"""<svg class="drawing" viewBox="0 0 720 132" role="img" aria-label="Noise on the left, data on the right. A diffusion
 model walks from one to the other in many steps, a consistency model jumps.">
<defs><marker id="tip" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="6" markerHeight="6" orient="auto-start-reverse">
<path d="M0 0L10 5L0 10z" fill="var(--jump)"/></marker></defs>
<g fill="currentColor" opacity=".45">{dots}</g>
<polyline points="{steps}" fill="none" stroke="var(--walk)" stroke-width="1.6"/><g fill="var(--walk)">{marks}</g>
<path d="M{x0} {y0 - 7}Q{(x0 + x1) / 2} -42 {x1 - 2:.1f} {y1 - 8:.1f}" fill="none" stroke="var(--jump)" stroke-width="3"
 marker-end="url(#tip)"/>
<g font-size="13" fill="currentColor" text-anchor="middle"><text x="90" y="126">noise, σ = 80</text>
<text x="626" y="126">data, σ = 0</text></g>
<g font-size="13" text-anchor="middle"><text x="340" y="106" fill="var(--walk)">diffusion model: many steps</text>
<text x="352" y="34" fill="var(--jump)">consistency model: one jump</text></g></svg>"""


def glossary() -> str:
    """The terms of the page as Markdown, a sentence or two each."""
    return "\n".join(f"- **{term}**: {meaning}" for term, meaning in GLOSSARY.items())


def title(group: Group) -> str:
    """How the menus call a group: by its data, with the size of the samples."""
    what = title_of(group.origin) if group.data else group.name
    kept = f", {len(group.class_names)} classes" if group.data != group.origin and group.class_names else ""
    size = f"{group.shape[1]} × {group.shape[2]}" if group.is_image else "points in the plane"
    own = group.name.partition(" (")[1:]
    return f"{what}{kept}, {size}{''.join(own)}"


@lru_cache(maxsize=256)
def _weights(path: str) -> int:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def about(group: Group) -> str:
    """A sentence or two about the models of a group: what they know, how large they are, and how they were trained."""
    numbers = group.class_names == tuple(map(str, range(group.classes)))
    shown = f"0 to {group.classes - 1}" if numbers else ", ".join(map(plain, group.class_names[:12]))
    known = f"Its {group.classes} classes are {shown}; it knows nothing else." if group.classes else "It knows no classes."
    paths = [path for path in group.models.values() if Path(path).is_file()]
    if not paths:
        return f"An exact denoiser, not trained. {known}"
    size = max(_weights(path) for path in paths)
    weights = f"{size / 1e6:.1f} million" if size >= 1e6 else f"{round(size, -3):,}"
    told = checkpoints.read_meta(paths[0]).get("about") or {}
    hours = f", trained for {told['seconds'] / 3600:.1f} hours" if told.get("seconds", 0) > 1800 else ", trained in minutes"
    where = " on a CPU" if told.get("device") == "cpu" else ""
    return f"A small network of {weights} weights{hours}{where}. {known}"
