"""What the notebooks are made of: exercises, predictions, quizzes, sliders, and figures with alt text and a caption.

    @teach.check                      # runs the tests, says what is wrong, gives a hint and the answer on request
    def tweedie(x, sigma, score):
        return ...                    # unsolved: the library's answer takes over, so the notebook still runs to its end

Everything shows up as HTML with a plain-text twin; nothing needs widgets. Where ipywidgets are live, `predict` and `explore`
add buttons and a slider. CMLAB_FAST=1 shrinks the work (tests), CMLAB_STATIC=1 leaves widgets out (committed outputs).
"""

import base64
import inspect
import io
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

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
    """True where the environment says CMLAB_FAST=1: do as little as still shows that the cell runs."""
    return os.environ.get("CMLAB_FAST", "") == "1"


def scale(full: T, small: T) -> T:
    """``full``, or ``small`` in fast mode: ``n = teach.scale(4000, 200)``."""
    return small if fast() else full


def live() -> bool:
    """True in a notebook with a reader in front of it and ipywidgets installed."""
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


def _emit(html: str, text: str, extra: Mapping[str, Any] | None = None) -> None:
    if _shell() is None:
        print(text)
        return
    from IPython.display import display

    display({"text/html": html, "text/plain": text, **(extra or {})}, raw=True)


def _box(title: str, *parts: str) -> str:
    # No colours of our own: light and dark themes both stay readable, and nothing is said by colour alone.
    return f'<div style="border-left:4px solid; padding:2px 12px"><b>{escape(title)}</b>{"".join(parts)}</div>'


def _fold(summary: str, inner: str) -> str:
    return f"<details><summary>{escape(summary)}</summary>{inner}</details>"


def _p(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def _code(text: str) -> str:
    return f"<pre><code>{escape(text)}</code></pre>"


# --- figures -------------------------------------------------------------------------------------------------------------


PHOTOGRAPHS = 20_000  # bytes of a PNG; rows of digits take less


def _png(figure: "Figure", dpi: int) -> bytes:
    from PIL import Image

    raw, small = io.BytesIO(), io.BytesIO()
    figure.savefig(raw, format="png", dpi=dpi, metadata={"Software": None})
    pictures = any(ax.images for ax in figure.axes)
    if pictures and len(raw.getvalue()) <= PHOTOGRAPHS:
        return raw.getvalue()  # pictures of few colours keep them
    # 64 colours make a plot several times smaller. Maximum coverage keeps those of thin lines, which the default choice mixes.
    colours, choice = (256, Image.Quantize.MEDIANCUT) if pictures else (64, Image.Quantize.MAXCOVERAGE)
    palette = Image.open(raw).convert("RGB").quantize(colours, choice, dither=Image.Dither.NONE)
    palette.save(small, "PNG", optimize=True)
    return small.getvalue()


def _img(figure: "Figure", alt: str, dpi: int = 110) -> str:
    if len(alt.split()) < 4:
        raise ValueError(f"describe the figure to a reader who cannot see it (alt=...), got {alt!r}")
    width = round(figure.get_figwidth() * 96)
    data = base64.b64encode(_png(figure, dpi)).decode()
    return f'<img alt="{escape(alt)}" width="{width}" style="max-width:100%;height:auto" src="data:image/png;base64,{data}">'


def _figcaption(text: str) -> str:
    return f"<figcaption><i>{escape(text)}</i></figcaption>"


def show(figure: "Figure | go.Figure", alt: str, caption: str, static: "Figure | None" = None) -> None:
    """Display a figure with its alt text and, below it, the caption that states the conclusion.

    A plotly figure needs ``static``, the matplotlib figure for readers without the plotly renderer. It travels as data for the
    renderer that JupyterLab gets from plotly's own package: no copy of plotly.js inside the notebook, no network.
    """
    from matplotlib.figure import Figure

    text = f"[{alt}]\n{caption}"
    if isinstance(figure, Figure):
        _emit(f'<figure style="margin:0">{_img(figure, alt)}{_figcaption(caption)}</figure>', text)
        return
    if static is None:
        raise ValueError("a plotly figure needs static=, a matplotlib figure that shows the same")
    data = json.loads(figure.to_json() or "{}")
    _emit(_img(static, alt), text, {"application/vnd.plotly.v1+json": data})
    _emit(_figcaption(caption), caption)  # on its own, because the interactive renderer shows the data alone


def caption(text: str) -> None:
    """The conclusion of what stands above, in one sentence."""
    _emit(_figcaption(text), text)


def explore(
    draw: Callable[[T], "Figure"], values: Sequence[T], *, name: str, alt: Callable[[T], str], caption: str, panels: int = 6
) -> None:
    """Small multiples of ``draw(value)``, and where widgets are live a slider over all ``values`` below them.

    Every picture is drawn beforehand, so the slider follows the hand. ``name`` labels the slider; ``alt(value)`` describes a
    picture. At most ``panels`` values, evenly spread, become small multiples.
    """
    if not values:
        raise ValueError("explore needs at least one value")
    shown = min(panels, len(values))
    chosen = [round(k * (len(values) - 1) / max(shown - 1, 1)) for k in range(shown)]
    wanted = range(len(values)) if live() else chosen
    figures = {k: draw(values[k]) for k in wanted}
    # The slider shows a picture at its full size; the small multiples alone, in a committed file, can do with fewer pixels.
    images = {k: _img(figure, alt(values[k]), dpi=110 if live() else 72) for k, figure in figures.items()}
    # A window 1280 pixels wide leaves 360 for each of three columns: too small for the words in a figure over 5.5 inches.
    wide = max(figure.get_figwidth() for figure in figures.values()) > 5.5
    style = f"margin:0;flex:1 1 {40 if wide else 30}%;max-width:{49 if wide else 33}%"
    labels = [f"{name} = {value}" for value in values]
    tiles = "".join(f'<figure style="{style}">{images[k]}<figcaption>{escape(labels[k])}</figcaption></figure>' for k in chosen)
    text = "\n".join(f"[{labels[k]}: {alt(values[k])}]" for k in chosen) + f"\n{caption}"
    _emit(f'<div style="display:flex;flex-wrap:wrap;gap:6px">{tiles}</div>{_figcaption(caption)}', text)
    if live():
        _slider(name, [str(v) for v in values], [images[k] for k in range(len(values))])


def _slider(name: str, labels: Sequence[str], pages: Sequence[str]) -> None:
    import ipywidgets
    from IPython.display import display

    # As much room as the name needs: by default it is cut after some ten letters. The handle is white by default, on white too.
    slider = ipywidgets.SelectionSlider(
        options=[(text, k) for k, text in enumerate(labels)],
        description=name,
        style={"description_width": "initial", "handle_color": "#0072B2"},
        layout={"width": "min(100%, 480px)"},
    )
    picture = ipywidgets.HTML(pages[0])
    slider.observe(lambda change: setattr(picture, "value", pages[change["new"]]), names="value")
    display(ipywidgets.VBox([slider, picture]))


# --- exercises -----------------------------------------------------------------------------------------------------------

_results: dict[str, str] = {}


def check(attempt: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: test the exercise that has this function's name, show the verdict, return what the notebook goes on with.

    That is the reader's function where it is right, the library's answer where it is not.
    """
    name = attempt.__name__
    exercise = _exercise(name)
    verdict, message = exercise.judge(attempt)
    _results[name] = verdict
    if verdict == RIGHT:
        _emit(_box(f"✓ {name}: right. From here on the notebook runs on your function."), f"{name}: {RIGHT}")
        return attempt
    way_out = "The library's answer stands in for it, so you can read on."
    mark = "✗" if verdict == WRONG else "○"
    folds = _fold("Hint", _p(exercise.hint)) + _fold("Reveal the answer", _code(source(exercise.answer, name)))
    spoken = _p(message) if message else ""
    _emit(
        _box(f"{mark} {name}: {verdict}.", spoken, _p(way_out), folds),
        " ".join(filter(None, [f"{name}: {verdict}.", message, way_out]))
        + (f" Hint: {exercise.hint}" if verdict == WRONG else f" Help: teach.hint('{name}'), teach.reveal('{name}')."),
    )
    return exercise.answer


def hint(name: str) -> None:
    """Show the hint of an exercise."""
    text = _exercise(name).hint
    _emit(_box(f"Hint for {name}", _p(text)), f"Hint for {name}: {text}")


def reveal(name: str) -> None:
    """Show the reference answer of an exercise."""
    text = source(_exercise(name).answer, name)
    _emit(_box(f"One answer for {name}", _code(text)), text)


def source(function: Callable[..., Any], name: str) -> str:
    """The source of an answer, right or wrong, under the exercise's own name."""
    return re.sub(r"^def \w+", f"def {name}", textwrap.dedent(inspect.getsource(function)).strip(), count=1)


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
    listed = "".join(f"<li><b>{escape(key)}</b>: {escape(text)}</li>" for key, text in options.items())
    how = "Click your guess, or write its letter into guess= and run the cell."
    if not live():
        how = "No guess yet: write one letter into guess=, run the cell, then go on."
    state = f"Your guess: {guess}." if guess else how
    text = "\n".join([f"Predict: {question}", *(f"  {key}: {text}" for key, text in options.items()), state])
    _emit(_box(f"Predict: {question}", f"<ul>{listed}</ul>", _p(state)), text)
    if live():
        _buttons(prediction)


def _buttons(prediction: Prediction) -> None:
    import ipywidgets
    from IPython.display import display

    buttons = ipywidgets.ToggleButtons(options=list(prediction.options), value=prediction.guess or None, description="or click:")
    said = ipywidgets.Label()  # a pressed button is hard to tell from the others in a dark theme

    def choose(change: Mapping[str, Any]) -> None:
        prediction.guess = change["new"] or ""
        said.value = f"Your guess: {prediction.guess}. Go on with the next cell." if prediction.guess else ""

    buttons.observe(choose, names="value")
    display(ipywidgets.VBox([buttons, said]))


def outcome(name: str, result: str, evidence: str) -> None:
    """After the run: guess against ``result`` (the option that the run computed), with the numbers that decide."""
    if name not in _predictions:
        raise ValueError(unknown("prediction", name, _predictions))
    prediction = _predictions[name]
    if result not in prediction.options:
        raise ValueError(unknown("option", result, prediction.options))
    guess = prediction.guess
    if not guess:
        verdict = "You made no guess."
    elif guess == result:
        verdict = f"✓ You guessed {guess}, as it happened."
    else:
        verdict = f"✗ You guessed {guess} ({prediction.options[guess]})."
    found = f"The run says {result}: {prediction.options[result]}."
    _emit(_box(prediction.question, _p(f"{verdict} {found}"), _p(evidence)), f"{prediction.question} {verdict} {found} {evidence}")


# --- quizzes -------------------------------------------------------------------------------------------------------------


def quiz(lesson: str, *answers: str) -> None:
    """The checkpoint at the end of a lesson: ``teach.quiz("01", "a", "", "c")`` checks two answers and leaves one open."""
    if lesson not in QUIZZES:
        raise ValueError(unknown("quiz", lesson, QUIZZES))
    questions = QUIZZES[lesson]
    if len(answers) > len(questions):
        raise ValueError(f"quiz {lesson} has {len(questions)} questions, got {len(answers)} answers")
    html, text = [], []
    for number, (question, answer) in enumerate(zip(questions, [*answers, *[""] * len(questions)], strict=False), 1):
        if answer and answer not in question.options:
            raise ValueError(f"question {number}: " + unknown("option", answer, question.options))
        listed = "".join(f"<li><b>{key}</b>: {escape(option)}</li>" for key, (option, _) in question.options.items())
        verdict = "no answer yet"
        if answer:
            verdict = f"{'✓ right' if answer == question.right else '✗ not yet'}. {question.options[answer][1]}"
        html.append(f"<p><b>{number}. {escape(question.text)}</b></p><ul>{listed}</ul>{_p(verdict)}")
        options = "".join(f"\n   {key}: {option}" for key, (option, _) in question.options.items())
        text.append(f"{number}. {question.text}{options}\n   {verdict}")
    status = "Exercises so far: " + (", ".join(f"{name} {verdict}" for name, verdict in _results.items()) or "none") + "."
    _emit(_box("Checkpoint", *html, _p(status)), "\n".join([*text, status]))


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
