"""The app: sample, interpolate, edit, and a 2D playground. Thin over cmlab; run it with ``make app`` or ``python app.py``."""

import argparse
import atexit
import functools
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

# Before gradio is imported: no usage reports, and temporary files in a folder that only this user can read, gone at the end.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "GRADIO_TEMP_DIR" not in os.environ:
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="cmlab-app-")
    atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)

import gradio as gr
import numpy as np
import torch
from gradio.themes import Default

from cmlab import appview as view
from cmlab.checkpoints import pretrained_names
from cmlab.data import TOYS
from cmlab.editing import EDITS, MASKS, likeliest_label, run_edit
from cmlab.losses import LOSSES
from cmlab.noise import SIGMA_MAX, seeds_from
from cmlab.presets import PRESETS

DEVICE = "cpu"  # main() sets it
MAX_COUNT, MAX_STEPS, MAX_TRAINING = 256, 80, 5000
MAX_PICTURES = 4000  # kept on disk, a few kB each
_WRITTEN: dict[Path, None] = {}
_WRITING = threading.Lock()
# Two at a time: a training run must not lock the other tabs, and a class of users must not lock the machine.
RUN = {"concurrency_id": "model", "concurrency_limit": 2}
QUIET = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}
CANVAS = {
    "type": "numpy",
    "image_mode": "RGBA",
    "format": "png",
    "layers": False,
    "fixed_canvas": True,
    "transforms": (),
    "sources": (),
}


def handler(fn):
    """Show refusals of the library as messages; anything else is a bug and stays an exception."""

    @functools.wraps(fn)
    def wrapped(*args, **kwargs):
        try:
            yield from fn(*args, **kwargs)
        except (ValueError, FloatingPointError) as error:
            raise gr.Error(str(error), title="Please check the input", print_exception=False) from error

    return wrapped


def png(pixels: np.ndarray) -> str:
    """A picture as a file in gradio's cache, written once: gradio rewrites it at every yield, while the browser reads it."""
    from gradio.processing_utils import encode_pil_to_bytes, hash_bytes
    from PIL import Image

    data = encode_pil_to_bytes(Image.fromarray(pixels), "png")
    path = Path(os.environ["GRADIO_TEMP_DIR"]) / hash_bytes(data) / "image.png"
    with _WRITING:
        _WRITTEN.pop(path, None)
        _WRITTEN[path] = None  # the newest comes last
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                file.write(data)
            os.replace(file.name, path)
        while len(_WRITTEN) > MAX_PICTURES:  # gradio's own clean-up does not know these files
            oldest = next(iter(_WRITTEN))
            del _WRITTEN[oldest]
            shutil.rmtree(oldest.parent, ignore_errors=True)
    return str(path)


def group_of(data: str | None, images: bool = False) -> view.Group:
    """The group ``data``, or the first there is (of images)."""
    known = {name: g for name, g in view.groups().items() if g.is_image or not images}
    if data is not None and data not in known:
        raise ValueError(f"Unknown data set {data!r}: choose one of {', '.join(known)}.")
    return known[data] if data is not None else next(iter(known.values()))


def source_picture(group: view.Group, image: str | None, example: float) -> tuple[torch.Tensor, str | None, list[str]]:
    """The uploaded file or else a bundled example (1, C, H, W), its class where known, and what was changed to fit the model."""
    if image is not None:
        from cmlab.plots import read_picture

        y, notes = read_picture(image, group.shape)
        return y, None, notes
    pictures, classes = view.examples(group)
    k = view.whole("The example", example, 0, len(pictures) - 1)
    return pictures[k][None], classes[k], []


# --- handlers: their argument names are the parameters of the API ----------------------------------------------------------


@handler
def sample(data=None, seed=0, count=16, heun_steps=18, student_steps=1, student="ect", class_name="all"):
    """The same noise through the diffusion model and two consistency models; yields after every solver step."""
    group, seed = group_of(data), view.seed_from(seed)
    count = view.whole("The number of samples", count, 1, MAX_COUNT)
    steps = {"edm": view.whole("The number of Heun steps", heun_steps, 1, MAX_STEPS)}
    steps |= dict.fromkeys(("cd", student), view.whole("The number of student steps", student_steps, 1, MAX_STEPS))
    seeds, label = seeds_from(seed, count), view.class_labels(group, class_name, count, DEVICE)
    panels: dict[str, tuple] = dict.fromkeys(steps, (None, "waits"))
    film = None

    def shown():
        return (*(part for panel in panels.values() for part in panel), film, seed)

    for method, k in steps.items():
        try:
            model = view.model_of(group, method, DEVICE)
        except ValueError as error:
            panels[method] = (None, str(error))
            continue
        walked = []
        for step, ms in view.trail(model, group.shape, seeds, view.sampler_of(method, k), k, label, DEVICE):
            walked.append(step)
            done = f"step {len(walked)} of {k}" if len(walked) < k else "1 step" if k == 1 else f"{k} steps"
            panels[method] = (png(view.picture(step.x0_hat)), f"**{view.METHODS[method]}, {done}** · {step.nfe} NFE · {ms:.0f} ms")
            yield shown()
        if method == "edm":
            film = png(view.film(walked))
    yield shown()


@handler
def interpolate(data=None, method="cd", seed_a=1, seed_b=2, frames=11, class_name="0"):
    """Pictures between two noises: the strip, its first frame, and the seeds used. The slider picks from the frames."""
    group, seed_a, seed_b = group_of(data, images=True), view.seed_from(seed_a), view.seed_from(seed_b)
    frames = view.whole("The number of frames", frames, 2, 33)
    label = view.class_labels(group, class_name, frames, DEVICE)
    x, step, ms = view.make_interpolation(group, method, (seed_a, seed_b), frames, label, DEVICE)
    pictures = [view.picture(one[None]) for one in x]
    text = f"**{view.METHODS[method]}** · {frames} frames · {step.nfe} NFE each · {ms:.0f} ms in all"
    slider = gr.Slider(maximum=frames - 1, value=0)
    yield png(view.picture(x, frames, 96)), png(pictures[0]), text, seed_a, seed_b, pictures, slider


@handler
def edit(
    task="inpaint", image=None, example=3, mask="centre", painted=None, data=None, method="cd", class_name="auto",
    steps=18, patch=2, noise_level=0.5, seed=0,
):  # fmt: skip
    """Edit a picture: the original, what the model is given, and the result; yields after every step of the sampler."""
    group, seed = group_of(data, images=True), view.seed_from(seed)
    steps, patch = view.whole("The number of steps", steps, 1, MAX_STEPS), view.whole("The block size", patch, 2, 16)
    noise_level = view.real("The noise level", noise_level, 0.01, SIGMA_MAX)
    model, (y, own_class, notes) = view.model_of(group, method, DEVICE), source_picture(group, image, example)
    class_name = own_class if class_name == "auto" else class_name
    if class_name is None and group.classes:
        class_name = group.class_names[int(likeliest_label(model, y.to(DEVICE), group.classes))]
        notes.append(f"taken for class {class_name}: choose another if it is not")
    label = None if class_name is None else view.class_labels(group, class_name, 1, DEVICE)
    made, degraded = view.make_edit(
        task, y, mask=mask, painted=painted, patch=patch, noise_level=noise_level, steps=steps, seed=seed
    )
    before = png(view.picture(y)), png(view.picture(degraded))
    for step, ms in view.timed(run_edit(model, made, [seed], label, DEVICE)):
        progress = f"step {step.i + 1} of {len(made.sigmas)} · {step.nfe} NFE · {ms:.0f} ms"
        text = " · ".join([f"**{view.TASKS[task]}** with {view.METHODS[method]}", progress, *notes])
        yield *before, png(view.picture(step.x0_hat)), text, seed


@handler
def trajectories(distribution="two-moons", drawing=None, count=24, steps=40, noise_level=1.0, seed=0):
    """Exact PF-ODE paths of a 2D distribution, and its exact consistency function as arrows."""
    data, seed = view.plane_data(distribution, drawing), view.seed_from(seed)
    count = view.whole("The number of paths", count, 1, 200)
    steps = view.whole("The number of steps", steps, 2, 200)
    noise_level = view.real("The noise level", noise_level, 0.01, SIGMA_MAX)
    paths, arrows, solid = view.exact_flow(data, count, steps, noise_level, seed)
    yield png(paths), png(arrows), solid, seed


@handler
def train_2d(distribution="two-moons", drawing=None, method="ect", steps=1500, batch=256, seed=0):
    """Train a small network in the plane; yields its samples from one fixed noise, and its loss, while it learns."""
    data, seed = view.plane_data(distribution, drawing), view.seed_from(seed)
    steps = view.whole("The number of training steps", steps, 10, MAX_TRAINING)
    batch = view.whole("The batch size", batch, 16, 2048)
    preset = PRESETS.get(f"{distribution}-{method}")  # students start from the diffusion model where one is bundled
    init = preset.init if preset is not None and preset.init in pretrained_names() else ""
    yield None, None, "Starting ...", seed
    for samples, curve, text in view.train_live(data, method, steps, batch, seed, init, DEVICE):
        yield png(samples), png(curve), text, seed


# --- the page ----------------------------------------------------------------------------------------------------------------


def panel(title: str, alt: str, elem_id: str, *classes: str, scale: int = 1, height: int | None = None) -> gr.Image:
    """An output picture under its heading: gradio's own label would cover a corner of the picture."""
    common = {"show_label": False, "format": "png", "interactive": False, "buttons": ["download", "fullscreen"]}
    with gr.Column(scale=scale, min_width=200):
        gr.Markdown(f"**{title}**", elem_classes="heading")
        return gr.Image(label=title, alt_text=alt, elem_id=elem_id, elem_classes=["panel", *classes], height=height, **common)


def seed_box(label: str, value: int) -> gr.Number:
    """A box for the seed with a button that throws the dice. The used seed is written back into it."""
    dice = gr.Button("random", size="sm")
    box = gr.Number(value, label=label, info="empty: a new one", step=1, buttons=[dice])
    dice.click(lambda: view.seed_from(None), None, box, **QUIET)
    return box


def model_boxes(names: list[str], *classes_first: str, class_value: str, info: str | None = None, students: bool = False) -> tuple:
    """Data set, method and class; the last two follow the first. ``students``: no diffusion model where there is another."""

    def options(name: str) -> tuple[dict, dict]:
        group = view.groups()[name]
        shown = [m for m in group.models if not (students and m == "edm" and len(group.models) > 1)]
        methods, classes = [(view.METHODS[m], m) for m in shown], [*classes_first, *group.class_names]
        kind = {"choices": classes, "value": class_value if class_value in classes else None, "visible": group.classes > 0}
        return {"choices": methods, "value": "cd" if "cd" in group.models else methods[0][1]}, kind

    methods, classes = options(names[0])
    data = gr.Dropdown(names, value=names[0], label="Data set")
    method, kind = gr.Radio(label="Model", **methods), gr.Dropdown(label="Class", info=info, **classes)
    data.change(lambda name: [gr.update(**o) for o in options(name)], data, [method, kind], **QUIET)
    return data, method, kind


def sample_tab(page: gr.Blocks, names: list[str]) -> None:
    gr.Markdown(
        "**The same noise in, three models out.** Diffusion walks down the PF-ODE in many steps; a consistency model jumps to its "
        "end in one. Where a student is good, its pictures are the diffusion model's. NFE counts network evaluations: the cost."
    )
    students = [m for m in view.FROM_DATA if any(m in g.models for g in view.groups().values())] or ["ect"]
    first = view.groups()[names[0]]
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            data = gr.Dropdown(names, value=names[0], label="Data set")
            kind = gr.Dropdown(
                ["all", *first.class_names], value="all", label="Class", info="all: one after the other", visible=first.classes > 0
            )
            seed = seed_box("Seed", 0)
            count = gr.Slider(1, MAX_COUNT, 16, step=1, label="Samples")
            heun_steps = gr.Slider(1, MAX_STEPS, 18, step=1, label="EDM: Heun steps")
            student_steps = gr.Slider(1, 16, 1, step=1, label="Students: steps")
            student = gr.Radio(
                [(view.METHODS[m], m) for m in students], value=students[0], label="Student 2", visible=len(students) > 1
            )
            with gr.Row():
                go, stop = gr.Button("Sample", variant="primary", elem_id="sample-go"), gr.Button("Stop", min_width=80)
        with gr.Column(scale=3):
            outputs = []
            with gr.Row():
                for k, title in enumerate(("Diffusion: EDM", "Distilled from it: CD", "Tuned on the data: CT family")):
                    with gr.Column(min_width=240):
                        outputs.append(panel(title, f"{title}: samples from the same noise", f"sample-{k}"))
                        outputs.append(gr.Markdown("", elem_classes="caption"))
            title = "How EDM got there, step by step (pictures: above the noisy state, below the network's guess of the end)"
            outputs.append(panel(title, "The way from noise to the first sample", "film"))
    inputs = [data, seed, count, heun_steps, student_steps, student, kind]
    event = gr.on([go.click, page.load], sample, inputs, [*outputs, seed], api_name="sample", show_progress="minimal", **RUN)
    captions = [output for output in outputs if isinstance(output, gr.Markdown)]
    stop.click(lambda *texts: [t.replace("waits", "not run") for t in texts], captions, captions, cancels=[event], **QUIET)

    def adapt(name: str):
        group = view.groups()[name]
        kinds = gr.Dropdown(["all", *group.class_names], value="all", visible=group.classes > 0)
        looks = [gr.Image(elem_classes=["panel"] if group.is_image else ["panel", "figure"]) for _ in pictures]
        return kinds, 16 if group.is_image else MAX_COUNT, *looks

    pictures = [output for output in outputs if isinstance(output, gr.Image)]
    data.change(adapt, data, [kind, count, *pictures], **QUIET)


def interpolate_tab(tab: gr.Tab, names: list[str]) -> None:
    gr.Markdown(
        "**A straight road through noise, a smooth one through pictures.** The noises of two seeds are joined by the great circle "
        "between them (slerp: mixed noise keeps its length). The slider only picks a frame that is already there."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            data, method, kind = model_boxes(names, class_value="3")
            seed_a, seed_b = seed_box("Seed A", 1), seed_box("Seed B", 2)
            frames = gr.Slider(2, 33, 11, step=1, label="Frames")
            go = gr.Button("Interpolate", variant="primary", elem_id="interpolate-go")
        with gr.Column(scale=3):
            strip = panel("From seed A to seed B", "A strip of pictures from seed A to seed B", "strip")
            position = gr.Slider(0, 10, 0, step=1, label="Frame", elem_id="position")
            frame = panel("The chosen frame", "The frame that the slider points at", "frame", height=380)
            caption, pictures = gr.Markdown("", elem_classes="caption"), gr.State([])
    inputs, outputs = [data, method, seed_a, seed_b, frames, kind], [strip, frame, caption, seed_a, seed_b, pictures, position]
    gr.on([go.click, tab.select], interpolate, inputs, outputs, api_name="interpolate", show_progress="minimal", **RUN)
    data.change(lambda: (None, None, "", []), None, [strip, frame, caption, pictures], **QUIET)
    position.input(lambda p, k: png(p[min(int(k), len(p) - 1)]) if p else None, [pictures, position], frame, **QUIET)


def edit_tab(tab: gr.Tab, names: list[str]) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            gr.Markdown("**Pick an example ...**", elem_classes="heading")
            common = {"format": "png", "allow_preview": False, "buttons": [], "interactive": False, "show_label": False}
            examples = gr.Gallery(label="Examples", columns=5, height=140, elem_id="examples", **common)
            example = gr.Number(3, visible=False, label="Example")
            gr.Markdown("**... or upload a picture**", elem_classes="heading")
            image = gr.File(label="Picture", show_label=False, file_types=["image"], height=120, elem_id="upload")
            data, method, kind = model_boxes(names, "auto", class_value="auto", info="auto: the example's own", students=True)
            seed = seed_box("Seed", 0)
        with gr.Column(scale=3):
            task = gr.Radio([(view.TASKS[t], t) for t in EDITS], value="inpaint", label="Task", elem_id="task")
            about = gr.Markdown(f"**Inpaint.** {view.TASK_HELP['inpaint']}")
            with gr.Row():
                original = panel("Original", "The picture before the edit", "original")
                degraded = panel("What the model is given", "What is left of the picture", "degraded")
                result = panel("Result", "The edited picture", "result")
            caption = gr.Markdown("", elem_classes="caption")
            with gr.Row():
                steps = gr.Slider(1, MAX_STEPS, 18, step=1, label="Steps")
                patch = gr.Slider(2, 8, 2, step=1, label="Block size", visible=False)
                noise_level = gr.Slider(0.05, 10, 0.5, step=0.05, label="Noise level σ", visible=False)
                go = gr.Button("Run", variant="primary", elem_id="edit-go")
            mask = gr.Radio([*MASKS, view.PAINTED], value="centre", label="Mask: what to generate", elem_id="mask")
            brush = gr.Brush(default_size=48, colors=["#D55E00", "#0072B2", "#F0E442", "#009E73", "#000000", "#FFFFFF"])
            size = (view.PANEL, view.PANEL)
            painted = gr.ImageEditor(
                label="Paint", canvas_size=size, visible=False, height=470, elem_id="painted", brush=brush, **CANVAS
            )
    inputs = [task, image, example, mask, painted, data, method, kind, steps, patch, noise_level, seed]
    outputs = [original, degraded, result, caption, seed]
    shown = {"show_progress": "minimal", "show_progress_on": result}
    gr.on([go.click, tab.select], edit, inputs, outputs, api_name="edit", **shown, **RUN)

    @handler
    def refresh(task, image, example, mask, data):
        """The controls follow the task, the original and the canvas follow the choice of picture."""
        group, keep = view.groups()[data], gr.skip()
        try:
            y, _, notes = source_picture(group, image, example)
        except ValueError as error:  # say so, drop the file, go on with the example
            y, notes, keep = source_picture(group, None, example)[0], [], None
            gr.Warning(f"{error} The example is in use again.", title="Not a picture")
        for note in notes:
            gr.Info(f"Your picture was {note}.", title="Picture converted")
        chosen = png(view.picture(y))
        paint = (task == "inpaint" and mask == view.PAINTED) or task == "stroke"
        yield (
            f"**{view.TASKS[task]}.** {view.TASK_HELP[task]}",
            gr.Slider(visible=task in ("inpaint", "colorize", "super_resolve")),
            gr.Slider(visible=task in ("super_resolve", "stroke")),
            gr.Slider(visible=task in ("stroke", "denoise")),
            gr.Radio(visible=task == "inpaint"),
            gr.ImageEditor(value=chosen if paint else None, visible=paint),
            chosen,
            keep,
        )

    def thumbnails(name: str):
        pictures, classes = view.examples(view.groups()[name])
        return [(png(view.picture(x[None], size=64)), k or "") for x, k in zip(pictures, classes, strict=True)]

    def pick(event: gr.SelectData):
        return event.index, None

    # Another picture: the result of the old one must not stand beside it.
    gr.on([image.change, example.change, data.change], lambda: (None, None, ""), None, [degraded, result, caption], **QUIET)
    follow = [task.change, image.change, example.change, mask.change, data.change]
    outputs = [about, steps, patch, noise_level, mask, painted, original, image]
    # In the queue, unlike the other small events: messages to the user travel with it.
    inputs = [task, image, example, mask, data]
    gr.on(follow, refresh, inputs, outputs, show_progress="hidden", api_visibility="private")
    gr.on([tab.select, data.change], thumbnails, data, examples, **QUIET)
    examples.select(pick, None, [example, image], **QUIET)


def plane_tab(tab: gr.Tab) -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            distribution = gr.Radio([*TOYS, view.DRAWN], value="two-moons", label="Distribution", elem_id="distribution")
            brush = gr.Brush(default_size=10, colors=["#0072B2"], color_mode="fixed")
            drawing = gr.ImageEditor(
                label="Draw it", canvas_size=(260, 260), visible=False, height=340, elem_id="drawing", brush=brush, **CANVAS
            )
            seed = seed_box("Seed", 0)
        with gr.Column(scale=3), gr.Tabs():
            with gr.Tab("Exact flow"):
                gr.Markdown(
                    "**Every noisy point lies on one path, and the consistency function maps it to that path's end.** The score of "
                    "these distributions is known, so paths and arrows are exact: this is what networks try to learn."
                )
                with gr.Row():
                    count = gr.Slider(1, 200, 24, step=1, label="Paths")
                    steps = gr.Slider(2, 200, 40, step=1, label="Heun steps")
                    level = gr.Slider(0.01, 10, 1.0, step=0.01, label="σ of the arrows")
                go = gr.Button("Show paths", variant="primary", elem_id="paths-go")
                with gr.Row():
                    paths = panel("PF-ODE paths", "Paths from noise to data", "paths", "figure", scale=5)
                    arrows = panel("Consistency function", "Arrows from noisy points to data", "arrows", "figure", scale=3)
                with gr.Accordion("The same paths in 3D: drag to turn", open=False):
                    solid = gr.Plot(label="Paths over the noise level")
            with gr.Tab("Train live"):
                gr.Markdown(
                    "**Watch a network learn.** EDM learns to denoise. CD learns, from the exact PF-ODE, that all points of one "
                    "path share one end; CT, iCT and ECT learn it from the data points. Students answer in one evaluation."
                )
                with gr.Row():
                    method = gr.Radio(
                        [(view.METHODS[m], m) for m in LOSSES if m in view.METHODS],
                        value="cd",
                        label="Method",
                        elem_id="train-method",
                    )
                    train_steps = gr.Slider(10, MAX_TRAINING, 2000, step=10, label="Training steps")
                    batch = gr.Slider(16, 2048, 256, step=16, label="Batch size")
                with gr.Row():
                    train = gr.Button("Train", variant="primary", elem_id="train-go")
                    stop = gr.Button("Stop", variant="stop", elem_id="train-stop")
                status = gr.Markdown("", elem_classes="caption", elem_id="train-status")
                with gr.Row():
                    points = panel("Samples from one fixed noise", "Data and samples", "train-points", "figure", scale=5)
                    curve = panel("Loss", "The loss over the training steps", "train-loss", "figure", scale=3)

    def redraw(distribution, drawing, *rest):
        """As trajectories, but a canvas that nobody has drawn on yet empties the panels instead of complaining."""
        if distribution != view.DRAWN or view.is_painted(drawing):
            yield from trajectories(distribution, drawing, *rest)
        else:
            yield None, None, None, gr.skip()

    inputs, outputs = [distribution, drawing, count, steps, level, seed], [paths, arrows, solid, seed]
    go.click(trajectories, inputs, outputs, api_name="trajectories", show_progress="minimal", **RUN)
    follow = [tab.select, distribution.input, level.release]
    gr.on(follow, redraw, inputs, outputs, api_visibility="private", show_progress="minimal", **RUN)
    inputs = [distribution, drawing, method, train_steps, batch, seed]
    event = train.click(train_2d, inputs, [points, curve, status, seed], api_name="train_2d", show_progress="hidden", **RUN)
    stop.click(lambda text: f"{text} · stopped", status, status, cancels=[event], **QUIET)
    # Another distribution: what was trained on the old one must not stand beside it.
    distribution.input(lambda: (None, None, ""), None, [points, curve, status], cancels=[event], **QUIET)
    # Gradio offers its brush at once only over a background.
    paper = png(np.full((260, 260, 3), 255, np.uint8))
    distribution.change(lambda d: gr.ImageEditor(paper, visible=d == view.DRAWN), distribution, drawing, **QUIET)


def build_app() -> gr.Blocks:
    """The whole page. Checkpoints are looked up here and loaded at their first use."""
    known = view.groups()
    names, images = list(known), [name for name, g in known.items() if g.is_image]
    with gr.Blocks(title="cmlab", delete_cache=(3600, 3600)) as page:
        gr.Markdown("# cmlab: consistency models, hands on")
        if images == [view.EXACT]:
            gr.Markdown(
                "**No trained image model was found** in cmlab/pretrained or runs. The exact denoiser of 300 digits stands in: it "
                "can only return these digits. Train a model with `cmlab train digits-edm`, then start the app again.",
                elem_classes="notice",
            )
        with gr.Tabs():
            with gr.Tab("Sample"):
                sample_tab(page, names)
            with gr.Tab("Interpolate") as tab:
                interpolate_tab(tab, images)
            with gr.Tab("Edit") as tab:
                edit_tab(tab, images)
            with gr.Tab("2D playground") as tab:
                plane_tab(tab)
    return page.queue(max_size=16)


def look() -> dict:
    """Options for launch(): the system's fonts (nothing is fetched) and the blue of Okabe and Ito's colour-blind-safe palette."""
    theme = Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"], primary_hue="blue")
    theme.set(button_primary_background_fill="#0072B2", button_primary_background_fill_hover="#005A8C")
    return {"theme": theme, "css": view.CSS, "run_history": False, "footer_links": ["api", "settings"], "max_file_size": "20mb"}


def main() -> None:
    """Serve the app until Ctrl-C."""
    global DEVICE
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", default=os.environ.get("PORT", "7860"), help="port to listen on (default: $PORT or 7860)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
    parser.add_argument("--device", default="cpu", help="where the models run, such as cuda (the small bundled ones like the CPU)")
    parser.add_argument("--share", action="store_true", help="open a public tunnel (needs the network)")
    options = parser.parse_args()
    if not options.port.isdigit() or not 1 <= int(options.port) <= 65535:
        sys.exit(f"The port must be a number from 1 to 65535, got {options.port!r}: use 'make app PORT=7861'.")
    try:
        with socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((options.host, int(options.port)))
    except OSError as error:
        sys.exit(f"Cannot use port {options.port} on {options.host} ({error.strerror}): choose another, 'make app PORT=7861'.")
    try:
        DEVICE = str(torch.zeros(1, device=options.device).device)
    except (RuntimeError, AssertionError) as error:
        sys.exit(f"The device {options.device!r} cannot be used ({str(error).splitlines()[0]}): choose cpu or cuda.")
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, min(4, (os.cpu_count() or 2) // 2)))  # small networks lose time on more threads
    page = build_app()
    page.launch(server_name=options.host, server_port=int(options.port), share=options.share, prevent_thread_lock=True, **look())
    time.sleep(5)  # imports would slow down the first paint
    view.warm_up()
    page.block_thread()


if __name__ == "__main__":
    main()
