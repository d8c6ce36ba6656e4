"""What the app's page is made of: boxes, panels, and runs that can be ended. The page itself is in page.py."""

import functools
import html
import os
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.state_holder import SessionState

from . import view

FILM = (Path(__file__).parent / "film.js").read_text("utf-8")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 2
THREADS = max(1, min(4, CORES // 4))  # of a run: small networks lose time on more
# As many at a time as have cores of their own; two at least, so that no run locks the other tabs.
RUN = {"concurrency_id": "model", "concurrency_limit": max(2, CORES // THREADS)}
SHOWN = {"show_label": False, "format": "png", "interactive": False}
QUIET = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}


class Stopped(Exception):
    """What a handler's generator is told where it stands: it may show, once more, what it has."""


@dataclass
class Turn:
    """A session's runs of one kind: the numbers below which they are over, and below which they were stopped."""

    over: int = 0
    stopped: int = 0

    def end(self, press: Any) -> None:
        self.over = max(self.over, number_of(press) or 0)

    def stop(self, press: Any) -> None:
        self.stopped = max(self.stopped, number_of(press) or 0)


def number_of(press: Any) -> int | None:
    """The number of a press in the browser; None for a run that a program has asked for."""
    return int(press) if isinstance(press, str) and press.isascii() and press.isdecimal() and len(press) < 16 else None


class Page(gr.Blocks):
    """The page. Whatever a request holds, it is answered in words: what a box refuses, without a traceback in the log."""

    def validate_inputs(self, block_fn, inputs):
        if len(inputs) < len(block_fn.inputs):
            needs = [getattr(box, "label", "") for box in block_fn.inputs if not box.skip_api]
            raise refusal(f"{len(inputs)} values are too few: {len(needs)} are needed, for {', '.join(map(str, needs))}.")

    async def preprocess_data(self, block_fn, inputs, state, explicit_call=False):
        self.validate_inputs(block_fn, inputs)
        state, values = state or SessionState(self), []
        for box, value in zip(block_fn.inputs, inputs, strict=False):
            if getattr(box, "follows", False) and value is None:
                values.append(None)
                continue
            one, label = copy(block_fn), getattr(box, "label", "")
            one.inputs, one.component_prop_inputs = [box], []
            try:
                if getattr(box, "free", False):  # any name, which the handler checks: its menu shows only one data set's
                    if value is not None and not isinstance(value, str):
                        raise refusal(f"{view.short(value)} is no name of a choice.")
                    values.append(value)
                    continue
                if _asks_to_fetch(value):
                    raise refusal(f"{label} takes files that were uploaded, not addresses.")
                if isinstance(box, gr.Dropdown) and isinstance(value, list):  # gradio takes several for one that offers one
                    raise refusal(f"{label} takes one choice, not {view.short(value)}.")
                if isinstance(box, gr.Radio) and value is None:
                    raise refusal(f"{label} is empty: choose one.")
                if isinstance(box, gr.Markdown) and not isinstance(value, str | None):
                    raise refusal(f"{label} is a text, not {view.short(value)}.")
                values += await super().preprocess_data(one, [value], state, explicit_call)
            except gr.Error as error:
                raise refusal(error.message) from error
            except Exception as error:  # TypeErrors, pydantic's, Pillow's: a value that is not of this box's kind
                empty = f"{label} is empty: put a {'number' if isinstance(box, (gr.Slider, gr.Number)) else 'value'} there."
                raise refusal(empty if value is None else f"{label} cannot take {view.short(value)}.") from error
        return values

    async def process_api(self, block_fn, inputs, *args, event_data=None, **kwargs):
        fn = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        if not fn.fn:
            raise refusal("This event is one of the browser's own.")
        if len(inputs) == len(fn.inputs) - 1 and isinstance(fn.inputs[-1], gr.Button):
            inputs = [*inputs, None]  # a program counts no presses
        selected = getattr(event_data, "_data", None)
        if fn.collects_event_data and not (isinstance(selected, dict) and {"index", "value"} <= selected.keys()):
            raise refusal("This event needs to be told what was selected.")
        try:
            return await super().process_api(fn, inputs, *args, event_data=event_data, **kwargs)
        except gr.Error:
            raise
        except (ValueError, FloatingPointError) as error:
            raise refusal(str(error)) from error
        except Exception as error:  # its traceback is in the log
            raise gr.Error("That is a fault of the app, not of the input. Its log tells more.", title="Something broke") from error

    def get_api_info(self, *args, **kwargs):
        """Gradio's description of the endpoints, in which the default of a box that `follows` other boxes is None."""
        info = super().get_api_info(*args, **kwargs)
        for fn in self.fns.values():
            endpoint = info["named_endpoints"].get(f"/{fn.api_name}") if fn.api_visibility == "public" else None
            if endpoint is not None:
                boxes = [box for box in fn.inputs if not box.skip_api]
                for box, parameter in zip(boxes, endpoint["parameters"], strict=True):
                    if getattr(box, "follows", False):
                        parameter["parameter_default"] = None
        return info


def refusal(message: str) -> gr.Error:
    """A message about wrong input. It is shown as HTML, so what it quotes is escaped."""
    text = html.escape(html.unescape(message), quote=False)
    return gr.Error(text, title="Please check the input", print_exception=False)


def _asks_to_fetch(value) -> bool:
    """Whether a file in a value is an address, which gradio would fetch."""
    if isinstance(value, dict):
        path = str(value.get("path")).strip().lower()
        return path.startswith(("http:", "https:")) or any(map(_asks_to_fetch, value.values()))
    return isinstance(value, list) and any(map(_asks_to_fetch, value))


def free(box):
    """Let ``box`` take any name, which the handler checks: the page shows one data set's choices, a program may want another's."""
    box.free = True
    box.api_info_as_input = lambda: {"type": "string"}
    return box


def follows(box):
    """A program that leaves ``box`` out gets what the handler takes by itself, not what the page shows at the time."""
    box.follows = True
    return box


def panel(title: str, alt: str, elem_id: str, *classes: str, name: str = "") -> gr.Image:
    """An output picture under its heading: gradio's own label would cover a corner of the picture. The API calls it ``name``."""
    with gr.Column(min_width=200):
        heading(f"**{title}**")
        how = {"label": name or title, "alt_text": alt, "elem_id": elem_id, "elem_classes": ["panel", *classes]}
        return gr.Image(**how, **SHOWN, buttons=["download", "fullscreen"])


def film(name: str, elem_id: str) -> gr.HTML:
    """A film that the browser plays, see film.js; its value is what `view.film` makes."""
    own = {"html_template": '<div class="film"></div>', "apply_default_css": False}
    return gr.HTML(label=name, elem_id=elem_id, js_on_load=f"({FILM})(element, props, watch, trigger)", **own)


def take_home(elem_id: str) -> gr.DownloadButton:
    """The archive of a run, see `keep.take_home`."""
    return gr.DownloadButton("Download: pictures, settings, command", size="sm", elem_id=elem_id)


def heading(text: str) -> gr.Markdown:
    return gr.Markdown(text, elem_classes="heading")


def lead(text: str | None) -> gr.Markdown:
    """What a tab, or what is chosen in it, is about. On a phone it stands below the pictures."""
    return gr.Markdown(text, elem_classes="lead")


def caption_box(name: str, **options) -> gr.Markdown:
    """A line about an output. Its ``name`` is what the API calls it."""
    return gr.Markdown("", label=name, elem_classes="caption", **options)


def seed_box(label: str, value: int) -> tuple[gr.Number, gr.Number]:
    """A box for the seed with a button for a random one, and a hidden box for the seed that a run has used.

    A run that starts with an empty box draws a seed. It then goes from the hidden box into the first, if nothing was typed there
    in the meantime.
    """
    dice = gr.Button("random", size="sm")
    box = gr.Number(value, label=label, info="empty: a new one", step=1, buttons=[dice])
    used = gr.Number(label=label, visible="hidden")
    dice.click(lambda: view.seed_from(None), None, box, **QUIET)
    used.change(None, [used, box], box, js="(used, typed) => typed ?? used", **QUIET)
    return box, used


def _bounded(accept):
    """A canvas keeps what is painted until a run takes it: not the layers of any number that a program may send without a run."""

    @functools.wraps(accept)
    def accept_blobs(self, data):
        if str(data.data.get("index") or 0) not in ("0", "null"):
            raise ValueError("the canvas has one layer")
        while len(self.blob_storage) >= 16:  # each some 100 kB, there for the moment between two requests
            del self.blob_storage[next(iter(self.blob_storage))]
        return accept(self, data)

    return accept_blobs


# In the class: a session makes new boxes of it. Of a class of our own gradio would write a .pyi beside this file.
gr.ImageEditor.accept_blobs = _bounded(gr.ImageEditor.accept_blobs)


def canvas(label: str, elem_id: str, side: int, height: int, brush: gr.Brush) -> gr.ImageEditor:
    """A square of ``side`` pixels to paint on, hidden at first, in a box of ``height`` pixels."""
    how = {"type": "numpy", "image_mode": "RGBA", "format": "png", "layers": False, "transforms": (), "sources": ()}
    size = {"canvas_size": (side, side), "fixed_canvas": True, "height": height}
    return gr.ImageEditor(label=label, elem_id=elem_id, brush=brush, visible=False, **how, **size)


def gallery(label: str, elem_id: str, **more) -> gr.Gallery:
    """Examples to click on. They are filled in when their tab opens."""
    common = {"columns": 6, "height": 150, "elem_classes": "examples", "allow_preview": False, "buttons": []}
    return gr.Gallery(label=label, elem_id=elem_id, **common, **SHOWN, **more)


# The browser counts what is pressed or changed there: a press that comes late is told from a newer one.
COUNTED = "(...values) => [...values.slice(0, -1), String(window.presses = (window.presses ?? 0) + 1)]"


def start(button: gr.Button, others: list, fn, inputs: list, outputs: list, **options) -> tuple:
    """``fn``, a `handlers.handler`, when the button is pressed, and at ``others``: a run for `halt` and `stop`.

    It has a number. Once its inputs are found to be right, the older ones of its session end at their next step.
    """
    turn = gr.State(Turn())
    options |= {"trigger_mode": "multiple", "js": COUNTED, **RUN}
    # A button is no parameter of the API, and here stands for the number of the press.
    gr.on([button.click, *others], fn, [*inputs, turn, button], outputs, **options)
    return turn, button


def halt(run: tuple, triggers: list, fn, inputs: list, outputs: list) -> None:
    """End what ``run`` has begun before ``triggers``, then show what ``fn`` makes of ``inputs``."""
    turn, button = run

    def after(*values):
        *values, turn, press = values
        turn.end(press)
        return fn(*values)

    options = {"trigger_mode": "multiple", "js": COUNTED, **QUIET}
    gr.on(triggers, after, [*inputs, turn, button], outputs, **options)


def run_buttons(label: str, elem_id: str) -> tuple[gr.Button, gr.Button]:
    """The button that begins a run, see `start`, and the one that ends it, see `stop`."""
    with gr.Row():
        go = gr.Button(label, variant="primary", elem_id=elem_id)
        return go, gr.Button("Stop", variant="stop", scale=0, min_width=120)


def stop(run: tuple, button: gr.Button) -> None:
    """Let ``button`` end ``run``, which shows what it has and says that it was stopped. Without one, nothing."""
    turn, counter = run
    options = {"trigger_mode": "multiple", "js": COUNTED, **QUIET}
    button.click(lambda turn, press: turn.stop(press), [turn, counter], None, **options)
