"""Links: the address holds the tab and every setting that is not the page's first one; opening it restores them.

What a link can hold is read off the page: the boxes of its public endpoints, by endpoint and parameter ("sample.seed"), and the
tabs that have a name. What another box's menu depends on is told by `follow`. The browser's half is page.js.
"""

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any

import gradio as gr

from . import view
from .parts import QUIET

MENUS, NUMBERS = (gr.Radio, gr.Dropdown), (gr.Slider, gr.Number)
BOUNDS = ("choices", "minimum", "maximum")


def follow(box: Any, fn: Callable, inputs: list, outputs: list) -> None:
    """When a visitor chooses in ``box``, ``fn`` of ``inputs`` gives ``outputs`` other choices, bounds and values.

    `settings` asks it too, before it looks whether a value fits, and keeps values that do.
    """
    box.input(fn, inputs, outputs, **QUIET)
    box.followers = [*getattr(box, "followers", ()), (fn, inputs, outputs)]


def within(box: Any, low: float, high: float) -> Any:
    """Let links set ``box`` from ``low`` to ``high``; a program, which may choose another data set, is told by the handler."""
    box.bounds = {"minimum": low, "maximum": high}
    return box


def controls(page: gr.Blocks) -> dict[str, Any]:
    """The boxes that a link can set, by name; one that several endpoints share has the name of the first."""
    found: dict[str, Any] = {}
    for fn in page.fns.values():
        if fn.api_visibility == "public" and fn.fn is not None:
            for name, box in zip(inspect.signature(fn.fn).parameters, fn.inputs, strict=False):
                if isinstance(box, (*MENUS, *NUMBERS)) and box not in found.values():
                    found[f"{fn.api_name}.{name}"] = box
    return found


def tabs(page: gr.Blocks) -> dict[str, list[gr.Tab]]:
    """For each tab with a name, the tabs that must be open for it to be seen: those around it, from the outermost, and itself."""

    def around(block: Any) -> Iterator[gr.Tab]:
        if block is not None:
            yield from around(block.parent)
            yield from [block] if isinstance(block, gr.Tab) else []

    return {t.id: list(around(t)) for t in list(page.blocks.values()) if isinstance(t, gr.Tab) and isinstance(t.id, str)}


def offered(bounds: dict[str, Any]) -> list:
    """The values in a menu, whose choices stand there with or without labels."""
    return [choice[1] if isinstance(choice, (tuple, list)) else choice for choice in bounds["choices"]]


def value_of(name: str, box: Any, text: str, bounds: dict[str, Any]) -> Any:
    """The value that ``text`` of a link means for ``box``; raises ValueError for none that it takes within its ``bounds``."""
    if isinstance(box, MENUS):
        known = {str(value): value for value in offered(bounds)}
        if text not in known:
            raise ValueError(f"{name} has no choice {view.short(text)}")
        return known[text]
    if text == "" and isinstance(box, gr.Number):
        return None
    try:
        number = float(text)
    except ValueError as error:
        raise ValueError(f"{name} is a number, not {view.short(text)}") from error
    low, high = (-view.MAX_SEED if bounds["minimum"] is None else bounds["minimum"], bounds["maximum"])
    return (view.whole if box.step == 1 else view.real)(name, number, low, view.MAX_SEED if high is None else high)


def settings(known: dict[str, Any], asked: Mapping[str, str]) -> tuple[dict[Any, dict[str, Any]], list[str]]:
    """The updates of boxes that give those in ``asked`` these values, all others their first, and what of it is wrong."""
    updates: dict[Any, dict[str, Any]] = {}
    values, wrong = {box: box.value for box in known.values()}, []
    bounds = {box: {key: getattr(box, key, None) for key in BOUNDS} | getattr(box, "bounds", {}) for box in known.values()}
    for name, box in sorted(known.items(), key=lambda item: not hasattr(item[1], "followers")):  # what others follow comes first
        if name not in asked:
            continue
        try:
            values[box] = value_of(name, box, asked[name], bounds[box])
        except ValueError as error:
            wrong.append(str(error).rstrip("."))
            continue
        updates[box] = updates.get(box, {}) | {"value": values[box]}
        for fn, inputs, outputs in getattr(box, "followers", ()):
            told = fn(*(values[b] for b in inputs))
            for b, update in zip(outputs, [told] if len(outputs) == 1 else told, strict=True):
                update = update if isinstance(update, dict) else {"value": update}
                bounds[b].update({key: update[key] for key in BOUNDS if key in update})
                fits = not bounds[b]["choices"] or values[b] in offered(bounds[b])
                values[b] = values[b] if fits else update["value"]
                updates[b] = updates.get(b, {}) | update | {"value": values[b]}
    return updates, wrong


def install(page: gr.Blocks, copy: gr.Button) -> tuple[Callable[[Mapping[str, str]], list], list]:
    """Restore what a visitor's address says when the page opens, and keep the address up to date; ``copy`` copies it.

    To be called when all else is on ``page``. Returns what a link does, as a function for an event, and the outputs of that event.
    """
    known, ways = controls(page), tabs(page)
    sets: list[Any] = list(dict.fromkeys(tab.parent for way in ways.values() for tab in way))
    about = {
        "names": list(known),
        "first": [box.value for box in known.values()],
        "ways": {name: [tab.id for tab in way] for name, way in ways.items()},
        "sets": [[name for name, way in ways.items() if way[-1].parent is each] for each in sets],
    }
    boxes = list(known.values())

    def go_to(asked: Mapping[str, str]) -> list:
        updates, wrong = settings(known, asked)
        wrong += [f"nothing here is called {view.short(name)}" for name in asked if name not in known and name != "tab"]
        if asked.get("tab", next(iter(ways))) not in ways:
            wrong.append(f"there is no tab {view.short(asked['tab'])}")
        if wrong:
            gr.Warning(escape(f"Left out of the link: {'; '.join(wrong[:6])}."), title="Please check the link", duration=None)
        return [gr.update(**updates[box]) if box in updates else gr.skip() for box in boxes]

    def restore(request: gr.Request) -> list:
        boxed = lambda name: name == "tab" or ("." in name and not name.startswith("plane."))  # noqa: E731  (see page.js)
        return go_to({name: text for name, text in request.query_params.items() if boxed(name)})

    own: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    # In the queue, unlike other small events: messages to the visitor travel with it.
    restored = page.load(restore, None, boxes, **own)
    restored.then(None, boxes, None, js=f"(...values) => cmlab.start({json.dumps(about)}, values)", **own)
    gr.on([box.change for box in known.values()], None, boxes, None, js="(...values) => cmlab.write(values)", **own)
    for name, way in ways.items():
        way[-1].select(None, None, None, js=f"() => cmlab.open({json.dumps(name)})", **own)
    back = gr.Button(visible="hidden", elem_id="link-back")
    back.click(None, None, sets, js="() => cmlab.back()", **own)
    copy.click(None, None, copy, js="() => cmlab.copy()", **own).then(None, None, copy, js="() => cmlab.copied()", **own)
    return go_to, boxes
