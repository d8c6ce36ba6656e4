"""What the app's page is made of: boxes, panels, and runs that can be ended. The page itself is in app.py."""

import functools

import gradio as gr

from . import view as view

# Two at a time: a training run must not lock the other tabs, and a class of users must not lock the machine.
RUN = {"concurrency_id": "model", "concurrency_limit": 2}
QUIET = {"queue": False, "api_visibility": "private", "show_progress": "hidden"}


class Page(gr.Blocks):
    """The page. Boxes refuse numbers out of range and unknown choices: with a message, and without a traceback in the log."""

    def __exit__(self, *args):
        """When the page is built: an emptied box of a slider is an input like others that are wrong, and no bug."""
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
        """What `follows` marks has no default of its own."""
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
    if payload is None:
        raise gr.Error(f"{box.label} is empty: put a number there.", title="Please check the input")
    return preprocess(payload)


def free(box):
    """The page shows the choices of one data set, and a program may ask for those of any: the handler checks them."""

    def preprocess(payload):
        if payload is not None and not isinstance(payload, str):
            raise gr.Error(f"{str(payload)[:40]} is no name of a choice.", title="Please check the input")
        return payload

    box.preprocess = preprocess
    box.api_info_as_input = lambda: {"type": "string"}
    return box


def follows(box):
    """Where a program chooses none, the handler takes one that the data set has, and not what the page happens to show."""
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
    """A box for the seed with a button that throws the dice, and an unseen one that a run puts the seed into which it takes.

    From there it goes into the first if that is empty: what is typed there while something runs is not overwritten.
    """
    dice = gr.Button("random", size="sm")
    box = gr.Number(value, label=label, info="empty: a new one", step=1, buttons=[dice])
    used = gr.Number(label=label, visible="hidden")
    dice.click(lambda: view.seed_from(None), None, box, **QUIET)
    used.change(None, [used, box], box, js="(used, typed) => typed ?? used", **QUIET)
    return box, used


def gallery(label: str, elem_id: str) -> gr.Gallery:
    """Examples to click on. They are filled in when their tab opens."""
    common = {"format": "png", "allow_preview": False, "buttons": [], "interactive": False, "show_label": False}
    return gr.Gallery(label=label, columns=6, height=150, elem_id=elem_id, elem_classes="examples", **common)


def start(button: gr.Button, others: list, fn, inputs: list, outputs: list, **options) -> tuple:
    """``fn`` when the button is pressed, and at ``others``: a run for `halt`.

    Pressed in mid-run, the run ends at its next step and starts anew with what is chosen by then.
    """
    turn = gr.State([])  # the session's runs, see `apphandlers.handler`
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
