"""What the notebooks are made of: exercises, predictions, quizzes, sliders, and figures with alt text and a caption.

    @teach.check                      # runs the tests, says what is wrong, gives a hint and the answer on request
    def tweedie(x, sigma, score):
        return ...                    # unsolved: the library's answer takes over, so the notebook still runs to its end

Everything is shown as HTML, with the same in plain text for readers without HTML; nothing needs widgets. Where ipywidgets
work, `predict` and `explore` add buttons and a slider. Two environment variables: CMLAB_FAST=1 shrinks the work (for tests),
CMLAB_STATIC=1 leaves widgets out (for committed outputs).
"""

import base64
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

from .. import plots
from ..base.suggest import unknown
from ..denoiser import Denoiser
from ..formats import checkpoints
from ..training import presets
from .exercises import EXERCISES, QUIZZES, RIGHT, WRONG, Exercise

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.figure import Figure

T = TypeVar("T")


# --- the switches --------------------------------------------------------------------------------------------------------


def fast() -> bool:
    """True where the environment says CMLAB_FAST=1: do the least work that still shows that a cell runs."""
    return os.environ.get("CMLAB_FAST", "") == "1"


def scale(full: T, small: T) -> T:
    """``full``, or ``small`` in fast mode: ``n = teach.scale(4000, 200)``."""
    return small if fast() else full


def live() -> bool:
    """True in a running notebook with ipywidgets installed, unless the environment says CMLAB_STATIC=1."""
    if os.environ.get("CMLAB_STATIC", "") == "1" or not hasattr(_shell(), "kernel"):
        return False
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        return False
    return True


def _shell() -> Any:
    # Outside a notebook nothing has imported IPython, and there is no reason to be the first.
    return sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None


def _emit(html: str, text: str, extra: Mapping[str, Any] | None = None, metadata: Mapping[str, Any] | None = None) -> None:
    if _shell() is None:
        print(text)
        return
    from IPython.display import display

    display({**({"text/html": html} if html else {}), "text/plain": text, **(extra or {})}, metadata=metadata, raw=True)


def _tag(name: str, text: str) -> str:
    return f"<{name}>{escape(text)}</{name}>"


def _list(options: Mapping[str, str]) -> str:
    return "<ul>" + "".join(f"<li>{_tag('b', key)}: {escape(text)}</li>" for key, text in options.items()) + "</ul>"


def _code(text: str) -> str:
    return f"<pre>{_tag('code', text)}</pre>"


def _figcaption(text: str, alt: str = "") -> str:
    # JupyterLab gives an image/png no alt text: there a screen reader finds it here.
    label = f' role="note" aria-label="Figure: {escape(alt)} {escape(text)}"' if alt else ""
    return f"<figcaption{label}>{_tag('i', text)}</figcaption>"


def _box(title: str, *parts: str) -> str:
    # No colours of our own: light and dark themes both stay readable, and nothing is said by colour alone.
    return f'<div style="border-left:4px solid; padding:2px 12px">{_tag("b", title)}{"".join(parts)}</div>'


# --- figures -------------------------------------------------------------------------------------------------------------


PLOTLY = "application/vnd.plotly.v1+json"
WIDEST = 960  # pixels of a page
PHOTOGRAPHS = 20_000  # bytes: a figure with a larger PNG holds photographs; rows of digits take less


def _png(figure: "Figure", dpi: int) -> bytes:
    from PIL import Image

    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=dpi, metadata={"Software": None})
    pictures = bool(figure.images) or any(ax.images for ax in figure.axes)
    if pictures and len(raw.getvalue()) <= PHOTOGRAPHS:
        return raw.getvalue()  # small pictures keep all their colours
    # 64 colours make a plot several times smaller. Maximum coverage keeps the colours of thin lines; the default mixes them.
    colours, choice = (256, Image.Quantize.MEDIANCUT) if pictures else (64, Image.Quantize.MAXCOVERAGE)
    Image.open(raw).convert("RGB").quantize(colours, choice, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return small.getvalue()


def _picture(figure: "Figure", alt: str, dpi: int = 110) -> tuple[dict[str, str], dict[str, Any]]:
    """A figure as an output's data and metadata: an image/png, which every viewer shows, a PDF too."""
    if len(alt.split()) < 4:
        raise ValueError(f"describe the figure to a reader who cannot see it (alt=...), got {alt!r}")
    width = min(round(figure.get_figwidth() * 96), WIDEST)
    return {"image/png": base64.b64encode(_png(figure, dpi)).decode()}, {"image/png": {"alt": alt, "width": width}}


def _img(figure: "Figure", alt: str, dpi: int = 110) -> str:
    data, metadata = _picture(figure, alt, dpi)
    size = f'width="{metadata["image/png"]["width"]}" style="max-width:100%;height:auto"'
    return f'<img alt="{escape(alt)}" {size} src="data:image/png;base64,{data["image/png"]}">'


def show(figure: "Figure | go.Figure", alt: str, caption: str, static: "Figure | None" = None) -> None:
    """Display a figure with its alt text and, below it, the caption that states the conclusion.

    A plotly figure needs ``static``, a matplotlib figure for readers without the plotly renderer. The notebook stores its data
    alone, and JupyterLab's renderer comes with the plotly package: no copy of plotly.js in the notebook, no network.
    """
    from matplotlib.figure import Figure

    still, extra = (figure, {}) if isinstance(figure, Figure) else (static, {PLOTLY: json.loads(figure.to_json() or "{}")})
    if still is None:
        raise ValueError("a plotly figure needs static=, a matplotlib figure that shows the same")
    _figure(still, alt, caption, extra)


def _figure(still: "Figure", alt: str, caption: str, extra: Mapping[str, Any] | None = None, dpi: int = 110) -> None:
    data, metadata = _picture(still, alt, dpi)
    _emit("", f"[{alt}]", {**data, **(extra or {})}, metadata)
    _emit(_figcaption(caption, alt), caption)  # on its own: a viewer shows one kind of data of an output


def caption(text: str) -> None:
    """Display the conclusion of what stands above, in one sentence."""
    _emit(_figcaption(text), text)


def explore(
    draw: Callable[[T], "Figure"], values: Sequence[T], *, name: str, alt: Callable[[T], str], caption: str, panels: int = 6
) -> None:
    """Show ``draw(value)`` for some values side by side, and where widgets work a slider over all ``values`` below them.

    Args:
        draw: the figure of a value. All are drawn beforehand, so that the slider moves without delay.
        name: what the values are called.
        alt: describes the figure of a value in words.
        caption: the conclusion.
        panels: how many values, evenly spread, are shown side by side at most.
    """
    if not values:
        raise ValueError("explore needs at least one value")
    shown = min(panels, len(values))
    chosen = [round(k * (len(values) - 1) / max(shown - 1, 1)) for k in range(shown)]
    slider = live()
    figures = {k: draw(values[k]) for k in (range(len(values)) if slider else chosen)}
    # A window 1280 pixels wide leaves 360 for each of three columns: too small for the words in a figure over 5.5 inches.
    columns = min(shown, 2 if max(figure.get_figwidth() for figure in figures.values()) > 5.5 else 3)
    labels = [f"{name} = {value}" for value in values]
    tiles = plots.side_by_side({labels[k]: figures[k] for k in chosen}, columns, dpi=72)
    _figure(tiles, "\n".join(f"{labels[k]}: {alt(values[k])}" for k in chosen), caption, dpi=72)
    if slider:
        _slider(name, [str(v) for v in values], [_img(figure, alt(values[k])) for k, figure in figures.items()])


def _slider(name: str, labels: Sequence[str], pages: Sequence[str]) -> None:
    import ipywidgets
    from IPython.display import display

    # By default the name is cut after some ten letters, and the handle is white on white.
    slider = ipywidgets.SelectionSlider(
        options=[(text, k) for k, text in enumerate(labels)],
        description=name,
        style={"description_width": "initial", "handle_color": "#0072B2"},
        layout={"width": "min(100%, 480px)"},
    )
    slider.index = len(pages) // 2  # the ends show least: no noise or nothing but noise
    picture = ipywidgets.HTML(pages[slider.index])
    slider.observe(lambda change: setattr(picture, "value", pages[change["new"]]), names="value")
    display(ipywidgets.VBox([slider, picture]))


# --- exercises -----------------------------------------------------------------------------------------------------------

_results: dict[str, str] = {}


def check(attempt: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: test a function as the exercise of its name, and show the verdict.

    Returns the reader's function where it is right, and the library's answer where it is not.
    """
    name = attempt.__name__
    exercise = _exercise(name)
    verdict, message = exercise.judge(attempt)
    _results[name] = verdict
    if verdict == RIGHT:
        html = [_tag("p", message)] if message else []
        _emit(
            _box(f"✓ {name}: right. From here on the notebook runs on your function.", *html), f"{name}: {RIGHT}. {message}".strip()
        )
        return attempt
    said = [message] if message else []
    said.append("The library's answer stands in for it, so you can read on.")
    pointer, idea = exercise.hints
    folds = {"Where to look": _tag("p", pointer), "The idea": _tag("p", idea), "Reveal the answer": _code(exercise.source)}
    html = [_tag("p", text) for text in said]
    html += [f"<details>{_tag('summary', summary)}{inner}</details>" for summary, inner in folds.items()]
    more = f"Where to look: {pointer}" if verdict == WRONG else ""
    more = f"{more} Help: teach.hint('{name}'), teach.hint('{name}', 2), teach.reveal('{name}').".strip()
    mark = "✗" if verdict == WRONG else "○"
    _emit(_box(f"{mark} {name}: {verdict}.", *html), " ".join([f"{name}: {verdict}.", *said, more]))
    return exercise.answer


def hint(name: str, step: int = 1) -> None:
    """Show a hint of an exercise: step 1 points to the place, step 2 gives the idea."""
    if step not in (1, 2):
        raise ValueError(f"there are hints 1 and 2, got {step}")
    text = _exercise(name).hints[step - 1]
    _emit(_box(f"Hint {step} for {name}", _tag("p", text)), f"Hint {step} for {name}: {text}")


def reveal(name: str) -> None:
    """Show the reference answer of an exercise."""
    text = _exercise(name).source
    _emit(_box(f"One answer for {name}", _code(text)), text)


def _exercise(name: str) -> Exercise:
    if name not in EXERCISES:
        raise ValueError(unknown("exercise", name, EXERCISES))
    return EXERCISES[name]


# --- predictions ---------------------------------------------------------------------------------------------------------


@dataclass
class Prediction:
    """A multiple-choice question about a run that has not happened yet; ``guess`` is a key of ``options`` or ""."""

    question: str
    options: Mapping[str, str]
    guess: str = ""


_predictions: dict[str, Prediction] = {}


def predict(name: str, question: str, options: Mapping[str, str], guess: str = "") -> None:
    """Ask before the run. The reader types a key of ``options`` as ``guess``, or clicks where widgets are live."""
    if guess and guess not in options:
        raise ValueError(unknown("option", guess, options))
    prediction = _predictions[name] = Prediction(question, options, guess)
    *first, last = options
    keys = f"{', '.join(first)} or {last}"
    state = f"Click your guess, or write {keys} into guess= and run the cell."
    if guess:
        state = f"Your guess: {guess}."
    elif not live():
        state = f"No guess yet: write {keys} into guess=, run the cell, then go on."
    text = "\n".join([f"Predict: {question}", *(f"  {key}: {text}" for key, text in options.items()), state])
    _emit(_box(f"Predict: {question}", _list(options), _tag("p", state)), text)
    if live():
        _buttons(prediction)


def _buttons(prediction: Prediction) -> None:
    import ipywidgets
    from IPython.display import display

    answers = [(text, key) for key, text in prediction.options.items()]
    buttons = ipywidgets.RadioButtons(options=answers, value=prediction.guess or None, layout={"width": "auto"})
    said = ipywidgets.Label()

    def choose(change: Mapping[str, Any]) -> None:
        prediction.guess = change["new"] or ""
        said.value = f"Your guess: {prediction.guess}. Go on with the next cell." if prediction.guess else ""

    buttons.observe(choose, names="value")
    display(ipywidgets.VBox([buttons, said]))


def outcome(name: str, result: str, evidence: str) -> None:
    """After the run: compare the guess with ``result``, the option that the run found; ``evidence`` gives the numbers."""
    if name not in _predictions:
        raise ValueError(unknown("prediction", name, _predictions))
    prediction = _predictions[name]
    if result not in prediction.options:
        raise ValueError(unknown("option", result, prediction.options))
    verdict = "You made no guess."
    if guess := prediction.guess:
        right = guess == result
        verdict = f"✓ You guessed {guess}, as it happened." if right else f"✗ You guessed {guess} ({prediction.options[guess]})."
    verdict += f" The run says {result}: {prediction.options[result]}."
    _emit(_box(prediction.question, _tag("p", verdict), _tag("p", evidence)), f"{prediction.question} {verdict} {evidence}")


# --- quizzes -------------------------------------------------------------------------------------------------------------


def quiz(lesson: str, *answers: str) -> None:
    """The checkpoint at the end of a lesson: ``teach.quiz("01", "a", "", "c")`` checks two answers and leaves one open."""
    if lesson not in QUIZZES:
        raise ValueError(unknown("quiz", lesson, QUIZZES))
    questions = QUIZZES[lesson]
    if len(answers) > len(questions):
        raise ValueError(f"quiz {lesson} has {len(questions)} questions, got {len(answers)} answers")
    answers += ("",) * (len(questions) - len(answers))
    html, text = [], []
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True), 1):
        if answer and answer not in question.options:
            raise ValueError(f"question {number}: " + unknown("option", answer, question.options))
        options = {key: option for key, (option, _) in question.options.items()}
        verdict = "no answer yet"
        if answer:
            verdict = f"{'✓ right' if answer == question.right else '✗ not yet'}. {question.options[answer][1]}"
        title = f"{number}. {question.text}"
        html.append(f"<p>{_tag('b', title)}</p>{_list(options)}{_tag('p', verdict)}")
        text += [title, *(f"   {key}: {option}" for key, option in options.items()), f"   {verdict}"]
    status = "Exercises so far: " + (", ".join(f"{name} {verdict}" for name, verdict in _results.items()) or "none") + "."
    _emit(_box("Checkpoint", *html, _tag("p", status)), "\n".join([*text, status]))


# --- models --------------------------------------------------------------------------------------------------------------


def models(*names: str) -> list[Denoiser]:
    """The bundled checkpoints of these names, frozen; else the reader's own in runs/. Says what to do where there are none."""
    found, missing = [], []
    for name in names:
        try:
            bundled = name in checkpoints.pretrained_names()
            found.append(checkpoints.load(name if bundled else presets.find(name))[0].requires_grad_(False))
        except checkpoints.CheckpointError as error:
            missing.append(f"{name} ({error})")
    if missing:
        raise checkpoints.CheckpointError(
            f"this notebook needs checkpoints that ship with cmlab but are not here: {'; '.join(missing)}. "
            f"Install cmlab again, or train them in this order: {', '.join(f'cmlab train {name}' for name in names)}"
        )
    return found
