"""What the app's buttons do: generators that gradio streams, and that `gradio_client` calls by name. The page is in page.py."""

import contextlib
import functools
import inspect
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any

import gradio as gr
import torch

from ..base.registry import EDITS, SAMPLERS
from ..editing import EDIT_STEPS, run_edit
from ..noise import SIGMA_MAX, seeds_from
from ..plots.figures import edit_picture
from ..plots.hover import hovering
from . import films, live, theory, view
from .keep import command, png, take_home
from .parts import Stopped, Turn, number_of, refusal

DEVICE = "cpu"  # server.serve sets it
MAX_COUNT, MAX_STEPS, MAX_TRAINING = 256, 80, 5000
FIRST, NONE = ["cd"], []  # defaults of `train`, of which gradio makes the API
NEXT = "its turn comes next"  # where a model's samples will stand


def handler(fn: Callable[..., Generator[Any, None, None]]) -> Callable[..., Iterator[Any]]:
    """Show refusals of the library as messages; anything else is a bug and stays an exception.

    A run of the page comes with its session's `Turn` and the number of its press: see `parts.start`. It shows nothing more once a
    newer one has begun; where it was stopped, ``fn`` is told so by `Stopped`.
    """

    own = inspect.signature(fn)
    more = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None) for name in ("turn", "press")]
    signature = own.replace(parameters=[*own.parameters.values(), *more])

    @functools.wraps(fn)
    def wrapped(*args, **kwargs):
        given = signature.bind(*args, **kwargs).arguments
        turn, press = given.pop("turn", None) or Turn(), given.pop("press", None)
        number, run, begun = number_of(press), fn(**given), False
        try:
            while True:
                if number is not None and number < turn.stopped:
                    with contextlib.suppress(Stopped, StopIteration):
                        yield run.throw(Stopped()) if begun else gr.skip()
                    return
                shown = next(run, None)
                if number is not None and not begun and shown is not None:
                    turn.end(press)
                begun = True
                if shown is None:
                    return
                if number is not None and number < turn.over:
                    yield gr.skip()  # what is shown last is sent once more at the end
                    return
                yield shown
        except (ValueError, FloatingPointError) as error:  # a traceback in the log is for bugs
            raise refusal(str(error)) from error

    wrapped.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
    return wrapped


def group_of(data: str | None, images: bool = False) -> view.Group:
    """The group ``data``, or the first there is (of images)."""
    known = {name: g for name, g in view.groups().items() if g.is_image or not images}
    if data is not None and data not in known:
        raise ValueError(f"Unknown data set {data!r}: choose one of {', '.join(known)}.")
    return known[data] if data is not None else next(iter(known.values()))


def source_picture(group: view.Group, image: str | None, example: float) -> tuple[torch.Tensor, str | None, list[str]]:
    """The uploaded file or else a bundled example (1, C, H, W), its class where known, and what was changed to fit the model."""
    if image is not None:
        from ..data.pixels import read_picture

        y, notes = read_picture(image, group.shape)
        return y, None, notes
    pictures, classes = view.examples(group)
    k = view.whole("The example", example, 0, len(pictures) - 1)
    return pictures[k][None], classes[k], []


# --- handlers: their argument names are the parameters of the API --------------------------------------------------------


@handler
def sample(
    data=None, seed=0, count=16, edm_steps=None, student_steps=None, student=None, class_name="all", sampler=None, distilled=None,
):  # fmt: skip
    """The same noise through the diffusion model and two students; yields after every solver step.

    None: the data set's first students; the sampler and steps that `samplers.plan` takes. A film and an archive come at the end.
    """
    settings = dict(locals())
    group, seed = group_of(data), view.seed_from(seed)
    distilled = distilled or view.usual(group, view.students(distilled=True))
    student = student or view.usual(group, view.students(distilled=False))
    count = view.whole("The number of samples", count, 1, MAX_COUNT)
    edm_steps = None if edm_steps is None else view.whole("The number of EDM's steps", edm_steps, 1, MAX_STEPS)
    student_steps = None if student_steps is None else view.whole("The number of student steps", student_steps, 1, MAX_STEPS)
    walks = {"edm": (sampler, edm_steps), distilled: (None, student_steps), student: (None, student_steps)}
    seeds, label = seeds_from(seed, count), view.class_labels(group, class_name, count, DEVICE)
    panels: dict[str, tuple] = dict.fromkeys(walks, (None, NEXT))
    film, archive, walked, files, commands, stopped = None, None, {}, {}, [], False

    def shown() -> tuple[Any, ...]:
        return (*(part for panel in panels.values() for part in panel), film, archive, seed)

    for method, (solver, steps) in sorted(walks.items(), key=lambda walk: walk[0] == "edm"):  # what takes long comes last
        if stopped:
            panels[method] = (None, "not run")
            continue
        try:
            model = view.model_of(group, method, DEVICE)
        except ValueError as error:
            panels[method] = (None, view.plain(str(error)))
            continue
        chosen = view.plan_of(group, method, solver, steps, DEVICE)
        own, k, label_of = walked.setdefault(method, []), chosen.steps, view.label_of(method)
        name = label_of + (f", {SAMPLERS.record(chosen.sampler).label}" if method == "edm" else "")
        file = f"{group.name}-{method}-seed{seed}" + ("" if group.is_image else "-plot")  # dark in dark mode, see style.py
        for step, ms in view.trail(model, group.shape, seeds, chosen.sampler, chosen.sigmas, label, DEVICE):
            own.append(step)
            done = f"step {len(own)} of {k}" if len(own) < k else "1 step" if k == 1 else f"{k} steps"
            panels[method] = png(view.picture(step.x0_hat), file), f"**{name}, {done}** · {step.nfe} NFE · {view.clock(ms)}"
            try:
                yield shown()
            except Stopped:
                stopped = True
                panels[method] = (panels[method][0], f"{panels[method][1]} · stopped")
                break
        path = group.models[method]
        if path != view.EXACT and not stopped:
            files[f"{file}.png"] = films.as_commanded(own[-1].x, path)
            said = {"sampler": solver, "steps": None if solver is None and view.loss_of(method).sampled() else steps}
            said |= {"label": None if class_name == "all" else class_name} if group.classes else {}
            commands.append(command("sample", path, n=count, seed=seed, **said, device=DEVICE, out=f"{file}.png"))
    if "edm" in walked:
        others = {view.label_of(method): own for method, own in walked.items() if method != "edm"}
        about = {"data": group.name, "seed": seed, "class_name": class_name, "count": count, "method": view.usual(group)}
        film = films.film_of(walked["edm"], others, about=about)
    archive = take_home(f"{group.name}-seed{seed}", files, settings | {"data": group.name, "seed": seed}, commands)
    yield shown()


@handler
def interpolate(
    data=None, method=None, seed_a=1, seed_b=2, frames=11, class_name="auto", example_a=None, example_b=None,
):  # fmt: skip
    """Pictures between two noises: the strip, the frames as a film, and the seeds used.

    An example's number takes the place of a seed: then the noise is the one that this picture comes from.
    """
    settings = dict(locals())
    group, seed_a, seed_b = group_of(data, images=True), view.seed_from(seed_a), view.seed_from(seed_b)
    frames, method = view.whole("The number of frames", frames, 2, 33), method or view.usual(group)
    pictures = [None if k is None else source_picture(group, None, k) for k in (example_a, example_b)]
    if class_name == "auto" and group.classes:
        class_name = next((p[1] for p in pictures if p is not None and p[1] is not None), group.class_names[0])
    label = view.class_labels(group, class_name, frames, DEVICE)
    ends = [seed if p is None else p[0] for seed, p in zip((seed_a, seed_b), pictures, strict=True)]
    parts = [f"**{view.label_of(method)}**", f"{frames} frames"] + ([f"class {view.plain(class_name)}"] if group.classes else [])
    parts += ["noises of pictures: EDM's PF-ODE run upwards"] if any(pictures) else []
    file = f"{group.name}-{method}-{seed_a}-to-{seed_b}"
    for step, ms in view.make_interpolation(group, method, (ends[0], ends[1]), frames, label, DEVICE):
        shown = png(view.strip(step.x0_hat)[0], file)
        text = " · ".join([*parts, f"step {step.i + 1}", f"{step.nfe} NFE each", f"{view.clock(ms)} in all"])
        try:
            yield shown, None, text, None, seed_a, seed_b
        except Stopped:
            yield shown, None, f"{text} · stopped", None, seed_a, seed_b
            return
    strip, columns = view.strip(step.x)
    labels = [f"frame {k + 1} of {frames}: {k / (frames - 1):.0%} of the way from A to B" for k in range(frames)]
    film = films.film({"Frame": list(step.x[:, None])}, labels, start=0) | {"strip": columns, "pictures": frames}
    yield png(strip, file), film, text, take_home(file, {f"{file}.png": strip}, settings), seed_a, seed_b


@handler
def edit(
    task="inpaint", image=None, example=3, mask="centre", painted=None, data=None, method=None, class_name="auto",
    steps=EDIT_STEPS, patch=2, noise_level=None, seed=0, count=1,
):  # fmt: skip
    """Edit a picture: the original beside the first result, what the model is given, and the results of ``count`` seeds.

    Yields after every step of the sampler. None as ``noise_level`` is the edit's own for pictures of this size.
    """
    settings = {k: v for k, v in locals().items() if k not in ("image", "painted")}
    group, seed, count = group_of(data, images=True), view.seed_from(seed), view.whole("The number of results", count, 1, 16)
    steps, patch = view.whole("The number of steps", steps, 1, MAX_STEPS), view.whole("The block size", patch, 2, 16)
    noise_level = None if noise_level is None else view.real("The noise level", noise_level, 0.01, SIGMA_MAX)
    method = method or view.usual(group)
    model, (y, own_class, notes) = view.model_of(group, method, DEVICE), source_picture(group, image, example)
    class_name = own_class if class_name == "auto" else class_name
    if class_name is None and group.classes:
        class_name, why = view.likeliest_class(group, model, y.to(DEVICE))
        notes.append(f"taken for class {view.plain(class_name)} ({why}): choose another if it is not")
    label = None if class_name is None else view.class_labels(group, class_name, count, DEVICE)
    made, source, options = view.make_edit(
        task, y, mask=mask, painted=painted, patch=patch, noise_level=noise_level, steps=steps, seed=seed, count=count
    )
    file = f"{group.name}-{method}-{task}-seed{seed}"
    given, before, walked = png(view.picture(made.degraded[:1]), f"{file}-given"), png(view.picture(y), f"{file}-original"), []
    for step, ms in view.timed(model, run_edit(model, made, seeds_from(seed, count), label, DEVICE)):
        walked.append(step)
        progress = f"step {step.i + 1} of {len(made.sigmas)} · {step.nfe} NFE · {view.clock(ms)}"
        text = " · ".join([f"**{EDITS.record(task).label}** with {view.label_of(method)}", progress, *notes])
        after = png(view.picture(step.x0_hat), file)
        both = before, png(view.picture(step.x0_hat[:1]), file)
        try:
            yield both, given, after, text, None, None, seed
        except Stopped:
            yield both, given, after, f"{text} · stopped", films.film_of(walked), None, seed
            return
    pictures = {"original.png": films.as_read(source), f"{file}.png": edit_picture(source, made.degraded, step.x)}
    if "free" in options:
        options["free"] = "mask.png" if mask == view.PAINTED else mask
        pictures |= {"mask.png": films.as_read(2 * made.free - 1)} if mask == view.PAINTED else {}
    said = {"image": "original.png", "label": class_name, "n": count, "seed": seed, "out": f"{file}.png"}
    commands = [] if group.models[method] == view.EXACT else [command("edit", group.models[method], task, **options, **said)]
    archive = take_home(file, pictures, settings | {"data": group.name, "seed": seed, "class_name": class_name}, commands)
    yield (before, png(view.picture(step.x[:1]), file)), given, after, text, films.film_of(walked), archive, seed


def train(
    distribution: str = "two-moons", methods: list[str] = FIRST, steps: float = 2000, batch: float = 256, seed: float = 0,
    points: list[float] = NONE, run: str = "",
) -> dict:  # fmt: skip
    """Train small networks in the plane side by side for about a second, and tell their weights and losses.

    ``run``, if given, is what an earlier call returned by that name, and all else is left aside: the training goes on, until it is
    ``done``. ``points`` are those of the distribution "drawn", flat.
    """
    if run:
        return live.go_on(str(run))
    data, seed = live.plane_data(distribution, points), view.seed_from(seed)
    steps = view.whole("The number of training steps", steps, 10, MAX_TRAINING)
    batch = view.whole("The batch size", batch, 16, 2048)
    if not isinstance(methods, list) or not 1 <= len(methods) <= live.MAX_METHODS or len({*map(str, methods)}) < len(methods):
        raise ValueError(f"Choose from 1 to {live.MAX_METHODS} methods.")
    training = live.Training(data, distribution, [str(m) for m in methods], int(steps), int(batch), int(seed), DEVICE)
    return live.go_on(live.began(training), 0.3) | {"seed": seed}


@handler
def theorems(
    experiment="thm1", distribution=None, solver="heun", model=None, distance="l2", target="other", start="8gaussians-edm",
    weight="1", seed=0,
):  # fmt: skip
    """Measure a theorem of the paper against exact scores: a figure, what it says, and its table."""
    seed = view.seed_from(seed)
    measure = theory.experiment(experiment, distribution or None, solver, model or None, distance, target, start, weight, seed)
    yield None, "Measuring, some seconds to half a minute ...", "", seed
    clock = time.perf_counter()
    found = measure()
    text = " · ".join([f"**{found.title}**", *found.conclusions, f"seed {seed}, {time.perf_counter() - clock:.1f} s"])
    yield hovering(found.figure()), text, theory.table_of(found), seed
