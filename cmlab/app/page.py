"""The app: sample, interpolate, edit, and the plane. Thin over cmlab; run it with ``cmlab app`` or ``make app``."""

import atexit
import os
import shutil
import tempfile
from html import escape
from pathlib import Path
from typing import Any

# Before gradio is imported: no usage reports, and temporary files in a folder that only this user can read, gone at the end.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = str(10**9)  # after every run else: a table of the last runs, for /monitoring
os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "GRADIO_TEMP_DIR" not in os.environ:
    os.environ["GRADIO_TEMP_DIR"] = tempfile.mkdtemp(prefix="cmlab-app-")
    atexit.register(shutil.rmtree, os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)

import gradio as gr
from gradio.events import api

from ..base.registry import EDITS, Record
from ..editing import EDIT_STEPS, MASKS
from . import browser, films, handlers, link, parts, theory, view, words
from .handlers import MAX_COUNT, MAX_STEPS, edit, handler, interpolate, sample
from .keep import png
from .paint import is_painted

MAX_PAINTINGS = 32  # that are kept for a visitor, one for each task and picture


def data_menu(names: list[str]) -> gr.Dropdown:
    """The groups by their titles, and below a line about the models of the one that is chosen."""
    known = view.groups()
    data = gr.Dropdown([(words.title(known[name]), name) for name in names], value=names[0], label="Data set")
    told = gr.Markdown(words.about(known[names[0]]), elem_classes="note")
    data.change(lambda name: words.about(handlers.group_of(name)), data, told, **parts.QUIET)
    return data


def model_choices(data: str, method: str | None, kind: str | None, students: bool) -> tuple[dict, dict]:
    """Choices and values of the boxes for method and class: a choice that the data set has, too, stays."""
    group = handlers.group_of(data)
    shown = [m for m in group.models if not students or view.is_consistency(m)] or list(group.models)
    known = ["auto", *group.class_names]
    methods = {"choices": [(view.label_of(m), m) for m in shown], "value": method if method in shown else view.usual(group)}
    return methods, {"choices": known, "value": kind if kind in known else "auto", "visible": group.classes > 0}


def model_boxes(names: list[str], info: str, students: bool = False) -> tuple[gr.Dropdown, gr.Radio, gr.Dropdown]:
    """Data set, method and class; the last two follow the first. ``students``: only consistency models, where there are any."""
    methods, classes = model_choices(names[0], None, None, students)
    data = data_menu(names)
    method = parts.follows(parts.free(gr.Radio(label="Model", **methods)))
    kind = parts.free(gr.Dropdown(label="Class", info=info, **classes))
    adapt = lambda name, *now: [gr.update(**each) for each in model_choices(name, now[0], now[1], students)]  # noqa: E731
    link.follow(data, adapt, [data, method, kind], [method, kind])
    return data, method, kind


def sample_tab(names: list[str]) -> tuple[gr.State, gr.Button, gr.Button]:
    """The tab's content; what stands for a sample that was picked, and the buttons that edit it and interpolate from it."""
    parts.lead(
        "**The same noise goes into three models.** The diffusion model walks to a picture in many steps; the others jump there. "
        "The better they have learned, the more their pictures resemble the diffusion model's. NFE is how often a network is asked."
    )
    groups = view.groups()
    first = groups[names[0]]

    def student_box(label: str, order: list[str]) -> gr.Radio:
        known = [m for m in order if any(m in g.models for g in groups.values())] or [order[0]]
        choices, value = [(view.label_of(m), m) for m in known], view.usual(first, known)
        return parts.follows(gr.Radio(choices, value=value, label=label, visible=len(known) > 1))

    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            data = data_menu(names)
            about = "all: the first sample is of the first class, the second of the second, and so on"
            kind = gr.Dropdown(["all", *first.class_names], value="all", label="Class", info=about, visible=first.classes > 0)
            parts.free(kind)
            seed, used = parts.seed_box("Seed", 0)
            student_steps = gr.Slider(
                1, 16, view.usual_plan(view.PREFERRED[0]).steps, step=1, label="Jumps: steps of the consistency models"
            )
            more = gr.Accordion("More settings", open=False)
        with more:
            count = gr.Slider(1, MAX_COUNT, 16, step=1, label="Samples")
            samplers = [(sampler.label, sampler.name) for sampler in view.diffusion_samplers()]
            usual = view.usual_plan("edm")
            sampler = gr.Dropdown(samplers, value=usual.sampler, label="EDM: sampler", elem_id="sampler")
            edm_steps = gr.Slider(1, MAX_STEPS, usual.steps, step=1, label="EDM: steps")
            distilled = student_box("Distilled", view.students(distilled=True))
            student = student_box("Trained on data", view.students(distilled=False))
        with gr.Column(scale=3, elem_classes="pictures"):
            outputs = []
            named = "EDM", "Distilled", "Trained"
            titles = "Diffusion model", "Learned from the diffusion model", "Learned from the data alone"
            with gr.Row(elem_classes="panels"):
                for k, (name, title) in enumerate(zip(named, titles, strict=True)):
                    with gr.Column(min_width=240):
                        alt = f"{title}: samples from the same noise"
                        outputs.append(parts.panel(title, alt, f"sample-{k}", name=f"{name} samples"))
                        outputs.append(parts.caption_box(f"{name} caption"))
            go, ending = parts.run_buttons("Sample", "sample-go")
            parts.heading("**The diffusion model's way, step by step.** Click on a sample to see it in all models.")
            outputs.append(way := parts.film("Film", "film"))
            with gr.Row(visible=False) as chosen_row:
                parts.heading("**This sample:**")
                editing = gr.Button("Edit this", size="sm", elem_id="edit-this")
                mixing = gr.Button("Interpolate from this", size="sm", elem_id="interpolate-this")
                looking = gr.Button("Nearest training pictures", size="sm", elem_id="nearest-this")
            near, chosen = parts.gallery("Nearest training pictures", "nearest", visible=False), gr.State(None)
            outputs.append(parts.take_home("sample-download"))
    inputs = [data, seed, count, edm_steps, student_steps, student, kind, sampler, distilled]
    run = parts.start(go, [], sample, inputs, [*outputs, used], api_name="sample", show_progress="minimal")
    parts.stop(run, ending)
    # Another data set: the pictures of the old one, finished or still on their way, must not stand beside it.
    parts.halt(run, [data.input], lambda: ["" if isinstance(output, gr.Markdown) else None for output in outputs], [], outputs)

    def adapt(name: str, kind: str, count: float, *chosen: str):
        """Class, students and number of samples stay as they are where the new set has them; points come in larger numbers."""
        group = handlers.group_of(name)
        known = ["all", *group.class_names]
        kinds = gr.update(choices=known, value=kind if kind in known else "all", visible=group.classes > 0)
        usual = (16, MAX_COUNT) if group.is_image else (MAX_COUNT, 16)
        radios = [view.usual(group, (m, *view.students(d))) for m, d in zip(chosen, (True, False), strict=True)]
        return kinds, usual[0] if count == usual[1] else count, *radios

    link.follow(data, adapt, [data, kind, count, distilled, student], [kind, count, distilled, student])

    def choose(event: gr.SelectData):
        """What the film knows of the run, with the seed and the class of the sample that was clicked on."""
        return films.one_of(event.value, event.index), gr.update(visible=True), gr.update(value=None, visible=False)

    @handler
    def nearest(picked: dict):
        picked = films.one_of(picked, 0)
        found = films.nearest(picked["data"], films.drawn_again(picked, handlers.DEVICE))
        pictures = [(png(view.picture(x[None], size=132)), f"root mean square distance {d:.3f}") for x, d in found]
        yield gr.update(value=pictures, visible=True)

    way.select(choose, None, [chosen, chosen_row, near], **parts.QUIET)
    gr.on([go.click, data.input], lambda: (gr.update(visible=False),) * 2, None, [chosen_row, near], **parts.QUIET)
    looking.click(nearest, chosen, near, api_visibility="private", **parts.RUN)
    return chosen, editing, mixing


def explained(entry: Record) -> str:
    """What a registry says of an entry, as Markdown."""
    return f"**{entry.label}.** {entry.help}"


def thumbnails(name: str) -> list[tuple[str, str]]:
    """The examples of a data set for a gallery, each with its class."""
    pictures, classes = view.examples(handlers.group_of(name))
    return [(png(view.picture(x[None], size=132)), k or "") for x, k in zip(pictures, classes, strict=True)]


def example_box(data: gr.Dropdown, label: str, value: int | None) -> gr.Number:
    """The number of an example of ``data``, out of sight: `thumbnails` show what can be chosen."""

    def last(name: str) -> int:
        return len(view.examples(handlers.group_of(name))[0]) - 1

    box = link.within(gr.Number(value, visible=False, label=label, step=1), 0, last(data.value))
    fits = lambda name, k: gr.update(maximum=last(name), value=None if k is None else min(int(k), last(name)))  # noqa: E731
    link.follow(data, fits, [data, box], [box])
    return box


def interpolate_tab(tab: gr.Tab, names: list[str]) -> None:
    parts.lead(
        "**Mix two noises, and watch the picture change.** The mixtures lie on a circle through both (slerp), so each is as strong "
        "as noise should be. Neighbouring noises end in similar pictures. A click on the strip picks one of the frames."
    )
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            data, method, kind = model_boxes(names, "auto: the picture's own, else the first")
            (seed_a, used_a), (seed_b, used_b) = parts.seed_box("Seed A", 1), parts.seed_box("Seed B", 2)
            with gr.Accordion("Pictures in place of seeds", open=False) as drawer:
                gr.Markdown("The noise that a picture comes from: the PF-ODE, run upwards by the diffusion model.")
                example_a, example_b = (example_box(data, f"Example {end}", None) for end in "AB")
                ends = []
                for end, example in zip("AB", (example_a, example_b), strict=True):
                    chosen = parts.heading(f"**{end}:** its seed")
                    ends.append((chosen, parts.gallery(f"Examples {end}", f"examples-{end.lower()}"), example))
                again = gr.Button("Seeds again", size="sm")
            frames = gr.Slider(2, 33, 11, step=1, label="Frames")
        with gr.Column(scale=3, elem_classes="pictures"):
            strip = parts.panel("From A to B", "Pictures from A to B, row by row", "strip", name="Strip")
            caption, (go, ending) = parts.caption_box("Caption"), parts.run_buttons("Interpolate", "interpolate-go")
            parts.heading("**One frame at a time.** A click on the strip picks one.")
            frame, archive = parts.film("Frames", "frames"), parts.take_home("interpolate-download")
    inputs = [data, method, seed_a, seed_b, frames, kind, example_a, example_b]
    outputs = [strip, frame, caption, archive, used_a, used_b]
    run = parts.start(go, [tab.select], interpolate, inputs, outputs, api_name="interpolate", show_progress="minimal")
    parts.stop(run, ending)
    parts.halt(run, [data.input], lambda: (None, None, "", None), [], [strip, frame, caption, archive])

    def told(end: str):
        def tell(k: float | None, name: str) -> tuple[str, dict]:
            kind = None if k is None else view.examples(handlers.group_of(name))[1][int(k)]
            picture = f"picture {int(k or 0)}" + (f", {view.plain(kind)}" if kind else "")
            return f"**{end}:** " + ("its seed" if k is None else picture), gr.update(interactive=k is None)

        return tell

    for end, seed, (chosen, shown, example) in zip("AB", (seed_a, seed_b), ends, strict=True):
        gr.on([drawer.expand, data.change], thumbnails, data, shown, **parts.QUIET)
        shown.select(pick, None, example, **parts.QUIET)
        example.change(told(end), [example, data], [chosen, seed], **parts.QUIET)
    gr.on([again.click, data.input], lambda: (None, None), None, [example_a, example_b], **parts.QUIET)


def pick(event: gr.SelectData) -> int:
    """Which picture of a gallery was chosen."""
    return view.whole("The example", event.index, 0, 10**6)


def edit_tab(tab: gr.Tab, names: list[str]) -> gr.File:
    """The tab's content; the box for a picture of one's own."""
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            parts.heading("**Pick an example ...**")
            examples = parts.gallery("Examples", "examples")
            parts.heading("**... or upload a picture**")
            image = gr.File(label="Picture", show_label=False, file_types=["image"], height=120, elem_id="upload")
            data, method, kind = model_boxes(names, "auto: the example's own", students=True)
            example = example_box(data, "Example", 3)
            seed, used = parts.seed_box("Seed", 0)
        with gr.Column(scale=3, elem_classes="pictures"):
            tasks = [(edit.label, edit.name) for edit in EDITS.records()]
            task = gr.Radio(tasks, value="inpaint", label="Task", elem_id="task")
            about = parts.lead(explained(EDITS.record("inpaint")))
            mask = gr.Radio([*MASKS, view.PAINTED], value="centre", label="Mask: what to generate", elem_id="mask")
            brush = gr.Brush(default_size=48, colors=["#D55E00", "#0072B2", "#F0E442", "#009E73", "#000000", "#FFFFFF"])
            with gr.Row(elem_classes="panels"):
                with gr.Column(min_width=200):
                    degraded = parts.panel("What the model is given", "What is left of the picture", "degraded", name="Given")
                    painted = parts.canvas("Paint", "painted", view.CANVAS, 290, brush)  # in its place where one paints
                result = parts.panel("Result", "The edited picture, once for each seed", "result")
                with gr.Column(min_width=200):
                    parts.heading("**Original | result: move the line**")
                    how = {"label": "Original and result", "elem_id": "original", "elem_classes": "panel"}
                    original = gr.ImageSlider(**how, **parts.SHOWN, buttons=[])
            caption = parts.caption_box("Caption")
            with gr.Row():
                steps = gr.Slider(1, MAX_STEPS, EDIT_STEPS, step=1, label="Steps")
                patch = gr.Radio([2, 4, 8], value=2, label="Block size", visible=False)
                noise_level = parts.follows(gr.Slider(0.05, 10, 0.5, step=0.01, label="Noise level σ", visible=False))
                count = gr.Slider(1, 8, 1, step=1, label="Results, side by side")
            go, ending = parts.run_buttons("Run", "edit-go")
            parts.heading("**Step by step**")
            way, archive = parts.film("Film", "edit-film"), parts.take_home("edit-download")
    inputs = [task, image, example, mask, painted, data, method, kind, steps, patch, noise_level, seed, count]
    outputs = [original, degraded, result, caption, way, archive, used]
    how = {"api_name": "edit", "show_progress": "minimal", "show_progress_on": result}
    run = parts.start(go, [tab.select], edit, inputs, outputs, **how)
    parts.stop(run, ending)

    def announce(uploaded, data):
        """Say, once for a file, what was changed to fit the model; drop what is no picture."""
        try:
            for note in handlers.source_picture(handlers.group_of(data), uploaded, 0)[2]:
                gr.Info(escape(f"Your picture was {note}."), title="Picture converted")
        except ValueError as error:
            gr.Warning(escape(f"{error} The example is in use again."), title="Picture not used")
            return None
        return gr.skip()

    @handler
    def refresh(task, uploaded, example, mask, data, painting, before, paintings):
        """The controls follow the task, the original and the canvas follow the picture, which brings its painting back."""
        group = handlers.group_of(data)
        try:
            y, _, _ = handlers.source_picture(group, uploaded, example)
        except ValueError:  # announce drops the file
            y, _, _ = handlers.source_picture(group, None, example)
        chosen = png(view.picture(y))
        paper = png(view.picture(y, size=view.CANVAS + view.CANVAS // y.shape[-2]))
        takes = view.options_of(task)
        paint = ("free" in takes and mask == view.PAINTED) or task == "stroke"
        paintings.pop(before, None)
        if before and len(before) < 100 and is_painted(painting) and painting["composite"] is not None:
            paintings[before] = png(painting["layers"][0], "layer"), png(painting["composite"])
            paintings = dict([*paintings.items()][-MAX_PAINTINGS:])
        now = f"{task} {Path(chosen).parent.name}" if paint else ""
        layer, whole = paintings.get(now, ("", ""))
        known: Any = {"background": paper, "layers": [layer], "composite": whole}
        on_canvas = known if Path(layer).is_file() and Path(whole).is_file() else paper if paint else None
        yield (
            explained(EDITS.record(task)),
            gr.Slider(visible="steps" in takes),
            gr.Radio(visible="patch" in takes or task == "stroke"),  # the blocks of a picture that nobody has painted over
            gr.Slider(visible="sigma" in takes),
            gr.Radio(visible="free" in takes),
            gr.ImageEditor(value=on_canvas, visible=paint),
            gr.Image(visible=not paint),
            (chosen, chosen),
            now,
            paintings,
        )

    # Another task, picture or mask: the result of the old one, finished or still on its way, must not stand beside it.
    stale = [degraded, result, caption, way, archive]
    ends = [task.input, image.upload, image.clear, examples.select, mask.input, data.input]
    parts.halt(run, ends, lambda: (None, None, "", None, None), [], stale)
    follow = [task.change, image.change, example.change, mask.change, data.change]
    # Of which task and picture the painting is goes with it: what is on its way belongs to no newer one.
    painted_for, paintings = gr.Textbox("", visible=False, label="Painted for"), gr.State({})
    inputs = [task, image, example, mask, data, painted, painted_for, paintings]
    outputs = [about, steps, patch, noise_level, mask, painted, degraded, original, painted_for, paintings]
    gr.on(follow, refresh, inputs, outputs, show_progress="hidden", api_visibility="private")

    def level(task: str, name: str):
        """The dial for noise shows what the edit takes by itself for pictures of this size."""
        own = view.own_level(task, handlers.group_of(name).shape)
        return gr.skip() if own is None else round(own, 2)

    for box in (task, data):
        link.follow(box, level, [task, data], [noise_level])
    # In the queue, unlike the other small events: messages to the user travel with it.
    image.change(announce, [image, data], image, show_progress="hidden", api_visibility="private")
    gr.on([tab.select, data.change], thumbnails, data, examples, **parts.QUIET)
    examples.select(pick, None, example, **parts.QUIET)
    examples.select(lambda: None, None, image, **parts.QUIET)
    return image


def theory_tab() -> None:
    with gr.Row():
        with gr.Column(scale=1, min_width=280):
            experiment = gr.Radio(
                [(name, e) for e, name in theory.EXPERIMENTS.items()], value="thm1", label="Experiment", elem_id="experiment"
            )
            free_choice = {"info": "soft3: three broad Gaussians", "interactive": True}
            data = parts.follows(gr.Dropdown(list(theory.distributions()), value=theory.USUAL, label="Distribution", **free_choice))
            solver = gr.Radio(list(theory.SOLVERS), value="heun", label="Solver", elem_id="solver")
            model = gr.Dropdown(
                [("none", ""), *((name, name) for name in theory.models())], value="", label="A trained model beside it"
            )
            distance = gr.Radio(list(theory.DISTANCES), value="l2", label="Distance", visible=False)
            networks = [("another network", "other"), ("the online network", "online")]
            target = gr.Radio(networks, value="other", label="Target", visible=False)
            starts = theory.starts() or ["8gaussians-edm"]
            usual = "8gaussians-edm" if "8gaussians-edm" in starts else starts[0]
            start_from = gr.Dropdown(starts, value=usual, label="Gradient at", visible=False)
            weight = gr.Radio(list(theory.WEIGHTS), value="1", label="Weight of the loss", visible=False)
            seed, used = parts.seed_box("Seed", 0)
        with gr.Column(scale=3, elem_classes="pictures"):
            about = parts.lead(theory.HELP["thm1"])
            picture = gr.Plot(label="Figure", show_label=False, elem_id="theorem")
            caption = parts.caption_box("Conclusion", elem_id="theorem-says")
            go = gr.Button("Measure", variant="primary", elem_id="theorem-go")
            with gr.Accordion("The numbers", open=False):
                table = gr.Markdown("", label="Table", elem_classes="numbers")
    inputs = [experiment, data, solver, model, distance, target, start_from, weight, seed]
    outputs = [picture, caption, table, used]
    run = parts.start(go, [], handlers.theorems, inputs, outputs, api_name="theorems", show_progress="minimal")
    boxes = [data, solver, model, distance, target, start_from, weight]
    # What is shown was measured with what is set.
    parts.halt(run, [box.input for box in (experiment, seed, *boxes)], lambda: (None, "", ""), [], [picture, caption, table])

    def adapt(e: str, chosen: str, before: str):
        """Each experiment's own controls. A model beside the curve brings its distribution."""
        bound = e == "thm1" and bool(chosen)
        about = {"info": f"that of {chosen}, which stands beside it", "interactive": False} if bound else free_choice
        own = gr.Dropdown(value=theory.data_of(chosen) if bound else before, visible=e != "variance", **about)
        shown = [e == "thm1", e == "thm1", e == "thm2", e == "thm2", e == "variance", e == "variance"]
        return theory.HELP[e], own, *(gr.update(visible=v) for v in shown)

    gr.on([experiment.change, model.change], adapt, [experiment, model, data], [about, *boxes], **parts.QUIET)


def build_app() -> parts.Page:
    """The whole page. Checkpoints are looked up here and loaded at their first use."""
    known = view.groups()
    names, images = list(known), [name for name, g in known.items() if g.is_image]
    with parts.Page(title="cmlab", delete_cache=(3600, 3600)) as page:
        with gr.Row(elem_id="top"):
            gr.Markdown("# cmlab: consistency models, hands on")
            copy = gr.Button("Copy link", size="sm", scale=0, min_width=110, elem_id="copy-link")
        with gr.Row(elem_id="introduction"):
            gr.Markdown(words.INTRODUCTION)
            gr.HTML(words.drawing(), padding=False)
        with gr.Accordion("The words on this page", open=False, elem_classes="lead"):
            gr.Markdown(words.glossary() + words.READ_ON)
        if images == [view.EXACT]:
            gr.Markdown(
                "**No trained image model was found** in cmlab/pretrained or runs. The exact denoiser of 300 digits stands in: it "
                "can only return these digits. Train a model with `cmlab train digits-edm`, then start the app again.",
                elem_classes="notice",
            )
        with gr.Tabs():
            with gr.Tab("Sample", id="sample"):
                chosen, editing, mixing = sample_tab(names)
            with gr.Tab("Interpolate", id="interpolate") as tab:
                interpolate_tab(tab, images)
            with gr.Tab("Edit", id="edit") as tab:
                image = edit_tab(tab, images)
            with gr.Tab("The plane", id="plane"):
                template = "<div>The plane is drawn by the browser: one moment.</div>"
                load = {"js_on_load": browser.ON_LOAD, "server_functions": [browser.everything]}
                gr.HTML(html_template=template, elem_id="plane", apply_default_css=False, min_height=700, **load)
                api(handlers.train, api_name="train", **parts.RUN)
            with gr.Tab("Theorems", id="theorems"):
                theory_tab()
        go_to, boxes = link.install(page, copy)

        def edit_this(picked: dict) -> list:
            picked = films.one_of(picked, 0)
            own = {"edit.data": picked["data"], "edit.class_name": picked["class_name"] or "auto"}
            return [*go_to(own), png(films.as_read(films.drawn_again(picked, handlers.DEVICE)), view.short(picked["seed"]))]

        def interpolate_from(picked: dict) -> list:
            picked = films.one_of(picked, 0)
            said = {"data": picked["data"], "seed_a": str(picked["seed"]), "class_name": picked["class_name"] or "auto"}
            return go_to({f"interpolate.{name}": value for name, value in said.items()})

        ways = (editing, edit_this, [*boxes, image], "edit"), (mixing, interpolate_from, boxes, "interpolate")
        for button, fn, outputs, name in ways:
            button.click(fn, chosen, outputs, **parts.QUIET).then(None, None, None, js=f"() => cmlab.show('{name}')", **parts.QUIET)
    return page.queue(max_size=16, api_open=False)
