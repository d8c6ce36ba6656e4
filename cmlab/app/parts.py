"""What the app's page is made of: boxes, panels, and runs that can be ended. The page itself is in page.py."""

import functools

import gradio as gr

from . import view

# Two at a time: a training run must not lock the other tabs, and a class of users must not lock the machine.
RUN = {"concurrency_id": "model", "concurrency_limit": 2}
QUIET = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}


class Page(gr.Blocks):
    """The page. What a box refuses (a number out of range, an unknown choice) is a message, without a traceback in the log."""

    def __exit__(self, *args):
        """At the end of the page's building: an emptied number of a slider is refused with a message, like other wrong input."""
        for box in self.blocks.values():
            if isinstance(box, gr.Slider):
                box.preprocess = functools.partial(_number, box, box.preprocess)
        return super().__exit__(*args)

    async def preprocess_data(self, *args, **kwargs):
        try:
            return await super().preprocess_data(*args, **kwargs)
        except gr.Error as error:
            error.print_exception = False
            raise

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


def _number(box: gr.Slider, preprocess, payload):
    if payload is None and getattr(box, "follows", False):
        return None
    if payload is None:
        raise gr.Error(f"{box.label} is empty: put a number there.", title="Please check the input")
    return preprocess(payload)


def free(box):
    """Let ``box`` take any name, which the handler checks: the page shows one data set's choices, a program may want another's."""

    def preprocess(payload):
        if payload is not None and not isinstance(payload, str):
            raise gr.Error(f"{str(payload)[:40]} is no name of a choice.", title="Please check the input")
        return payload

    box.preprocess = preprocess
    box.api_info_as_input = lambda: {"type": "string"}
    return box


def follows(box):
    """A program that leaves ``box`` out gets what the handler takes by itself, not what the page shows at the time."""
    box.follows = True
    return box


def panel(title: str, alt: str, elem_id: str, *classes: str, scale: int = 1, height: int | None = None, name: str = "") -> gr.Image:
    """An output picture under its heading: gradio's own label would cover a corner of the picture. The API calls it ``name``."""
    common = {"show_label": False, "format": "png", "interactive": False, "buttons": ["download", "fullscreen"]}
    with gr.Column(scale=scale, min_width=200):
        gr.Markdown(f"**{title}**", elem_classes="heading")
        return gr.Image(
            label=name or title, alt_text=alt, elem_id=elem_id, elem_classes=["panel", *classes], height=height, **common
        )


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


def stop_button(**options) -> gr.Button:
    """The button that ends a run."""
    return gr.Button("Stop", variant="stop", min_width=80, **options)


def canvas(label: str, elem_id: str, side: int, height: int, brush: gr.Brush) -> gr.ImageEditor:
    """A square of ``side`` pixels to paint on, hidden at first, in a box of ``height`` pixels."""
    how = {"type": "numpy", "image_mode": "RGBA", "format": "png", "layers": False, "transforms": (), "sources": ()}
    size = {"canvas_size": (side, side), "fixed_canvas": True, "height": height}
    return gr.ImageEditor(label=label, elem_id=elem_id, brush=brush, visible=False, **how, **size)


def gallery(label: str, elem_id: str) -> gr.Gallery:
    """Examples to click on. They are filled in when their tab opens."""
    common = {"format": "png", "allow_preview": False, "buttons": [], "interactive": False, "show_label": False}
    return gr.Gallery(label=label, columns=6, height=150, elem_id=elem_id, elem_classes="examples", **common)


def start(button: gr.Button, others: list, fn, inputs: list, outputs: list, **options) -> tuple:
    """``fn`` when the button is pressed, and at ``others``: a run for `halt`.

    Pressed in mid-run, the run ends at its next step and starts anew with what is chosen by then.
    """
    turn = gr.State([])  # the session's runs, see `handlers.handler`
    button.click(lambda turn: turn.clear(), turn, None, **QUIET)
    # Gradio's own cancelling forgets a run that starts before it is done, so a press does without: it waits for the old run's end.
    options |= {"trigger_mode": "always_last", **RUN}
    return gr.on([button.click, *others], fn, [*inputs, turn], outputs, **options), turn


def halt(run: tuple, triggers: list, fn, inputs: list, outputs: list) -> None:
    """End ``run`` at ``triggers``, then show what ``fn`` makes of ``inputs``: nothing of the run arrives after that."""
    event, turn = run
    gr.on(triggers, None, None, None, cancels=[event], api_visibility="private")

    def after(turn: list, *values):
        turn.clear()
        return fn(*values)

    gr.on(triggers, after, [turn, *inputs], outputs, **QUIET)
