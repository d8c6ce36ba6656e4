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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from . import checkpoints, presets
from .data import unknown
from .denoiser import Denoiser
from .oracle import Gaussian

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


def _png(figure: "Figure", dpi: int) -> bytes:
    from PIL import Image

    raw = io.BytesIO()
    figure.savefig(raw, format="png", dpi=dpi, metadata={"Software": None})
    if any(ax.images for ax in figure.axes):
        return raw.getvalue()  # pictures keep their colours
    small = io.BytesIO()
    # 64 colours make a plot several times smaller. Maximum coverage keeps those of thin lines, which the default choice mixes.
    palette = Image.open(raw).convert("RGB").quantize(64, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
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
    images = {k: _img(draw(values[k]), alt(values[k]), dpi=72) for k in wanted}
    style = "margin:0;flex:1 1 30%;max-width:33%"
    labels = [f"{name} = {value}" for value in values]
    tiles = "".join(f'<figure style="{style}">{images[k]}<figcaption>{escape(labels[k])}</figcaption></figure>' for k in chosen)
    text = "\n".join(f"[{labels[k]}: {alt(values[k])}]" for k in chosen) + f"\n{caption}"
    _emit(f'<div style="display:flex;flex-wrap:wrap;gap:6px">{tiles}</div>{_figcaption(caption)}', text)
    if live():
        _slider(name, [str(v) for v in values], [images[k] for k in range(len(values))])


def _slider(name: str, labels: Sequence[str], pages: Sequence[str]) -> None:
    import ipywidgets
    from IPython.display import display

    slider = ipywidgets.SelectionSlider(options=[(text, k) for k, text in enumerate(labels)], description=name)
    picture = ipywidgets.HTML(pages[0])
    slider.observe(lambda change: setattr(picture, "value", pages[change["new"]]), names="value")
    display(ipywidgets.VBox([slider, picture]))


# --- exercises -----------------------------------------------------------------------------------------------------------

RIGHT, WRONG, OPEN = "right", "not yet right", "not solved yet"


@dataclass(frozen=True)
class Exercise:
    """A function that the reader writes.

    Args:
        answer: the reference; its source is what `reveal` shows and what replaces an unsolved attempt.
        wrong: functions with typical mistakes, and what to say to whoever makes them.
        hint: the way to the answer, without the answer.
        cases: gives the arguments of each test; built when needed, so that importing costs nothing.
    """

    answer: Callable[..., Any]
    wrong: Mapping[Callable[..., Any], str]
    hint: str
    cases: Callable[[], Iterable[tuple[Any, ...]]]

    def judge(self, attempt: Callable[..., Any]) -> tuple[str, str]:
        """RIGHT, WRONG or OPEN, and what to tell the reader."""
        for number, case in enumerate(self.cases(), 1):
            want = self.answer(*_copies(case))
            try:
                got = attempt(*_copies(case))
            except Exception as error:
                # A "..." that is still in the code is what raised: that is no mistake yet.
                if ... in getattr(getattr(attempt, "__code__", None), "co_consts", ()) and isinstance(error, TypeError):
                    return OPEN, ""
                return WRONG, f"Your function raised {type(error).__name__}: {error}."
            if got is None or got is ...:
                return OPEN, ""
            problem = _difference(got, want)
            if problem:
                known = (text for mistake, text in self.wrong.items() if not _difference(got, mistake(*_copies(case))))
                return WRONG, " ".join([f"Test {number}: {problem}.", *known][:2])
        return RIGHT, ""


def _copies(case: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(a.clone() if isinstance(a, Tensor) else a for a in case)


def _difference(got: Any, want: Any) -> str:
    """What distinguishes an answer from the right one, or "": float32 rounding passes, a missing factor does not."""
    try:
        a, b = (torch.as_tensor(v).detach().double() for v in (got, want))
    except (TypeError, ValueError, RuntimeError):
        return f"expected a tensor, got {type(got).__name__}"
    if a.shape != b.shape:
        return f"expected shape {tuple(b.shape)}, got {tuple(a.shape)}"
    if not bool(a.isfinite().all()):
        return "the result holds values that are not finite"
    error = (a - b).abs()
    if float(error.max()) <= 1e-4 * max(float(b.abs().max()), 1e-3):
        return ""
    worst = int(error.argmax())
    return f"expected {float(b.flatten()[worst]):.4g}, got {float(a.flatten()[worst]):.4g} where the two differ most"


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
    state = f"Your guess: {guess}." if guess else "No guess yet: write one letter into guess=, run the cell, then go on."
    text = "\n".join([f"Predict: {question}", *(f"  {key}: {text}" for key, text in options.items()), state])
    _emit(_box(f"Predict: {question}", f"<ul>{listed}</ul>", _p(state)), text)
    if live():
        _buttons(prediction)


def _buttons(prediction: Prediction) -> None:
    import ipywidgets
    from IPython.display import display

    buttons = ipywidgets.ToggleButtons(options=list(prediction.options), value=prediction.guess or None, description="or click:")
    buttons.observe(lambda change: setattr(prediction, "guess", change["new"] or ""), names="value")
    display(buttons)


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


@dataclass(frozen=True)
class Question:
    """``options``: key -> (what it says, what to answer to whoever picks it); ``right`` is the correct key."""

    text: str
    options: Mapping[str, tuple[str, str]]
    right: str


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


# --- the answers ---------------------------------------------------------------------------------------------------------
# Untyped on purpose: their source is shown to the reader and pasted into a notebook that has imported torch alone.


def _one_step(f, noise, sigma_max):
    x = sigma_max * noise  # the start of the PF-ODE
    return f(x, torch.tensor(sigma_max))


def _one_step_unscaled(f, noise, sigma_max):
    return f(noise, torch.tensor(sigma_max))


def _one_step_wrong_level(f, noise, sigma_max):
    return f(sigma_max * noise, torch.tensor(0.002))


def _add_noise(x0, sigma, eps):
    return x0 + sigma * eps


def _add_noise_variance(x0, sigma, eps):
    return x0 + sigma**2 * eps


def _add_noise_preserving(x0, sigma, eps):
    return (1 - sigma**2) ** 0.5 * x0 + sigma * eps


def _diffuse(x, sigmas, z):
    for k in range(len(z)):
        sigma, dsigma = sigmas[k], sigmas[k + 1] - sigmas[k]
        x = x + (2 * sigma * dsigma).sqrt() * z[k]
    return x


def _diffuse_like_an_ode(x, sigmas, z):
    for k in range(len(z)):
        sigma, dsigma = sigmas[k], sigmas[k + 1] - sigmas[k]
        x = x + (2 * sigma).sqrt() * dsigma * z[k]
    return x


def _diffuse_without_two(x, sigmas, z):
    for k in range(len(z)):
        sigma, dsigma = sigmas[k], sigmas[k + 1] - sigmas[k]
        x = x + (sigma * dsigma).sqrt() * z[k]
    return x


def _tweedie(x, sigma, score):
    return x + sigma**2 * score


def _tweedie_first_power(x, sigma, score):
    return x + sigma * score


def _tweedie_uphill(x, sigma, score):
    return x - sigma**2 * score


def _euler_solve(denoise, x, sigmas):
    for k in range(len(sigmas) - 1):
        slope = (x - denoise(x, sigmas[k])) / sigmas[k]
        x = x + (sigmas[k + 1] - sigmas[k]) * slope
    return x


def _euler_solve_as_printed(denoise, x, sigmas):
    for k in range(len(sigmas) - 1):
        score = (denoise(x, sigmas[k]) - x) / sigmas[k] ** 2
        x = x + (sigmas[k + 1] - sigmas[k]) * -score
    return x


def _euler_solve_backwards(denoise, x, sigmas):
    for k in range(len(sigmas) - 1):
        slope = (x - denoise(x, sigmas[k])) / sigmas[k]
        x = x + (sigmas[k] - sigmas[k + 1]) * slope
    return x


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)), dtype=torch.float64)


def _blob() -> Gaussian:
    return Gaussian(torch.tensor([0.3, -0.2]), 0.5)


EXERCISES: dict[str, Exercise] = {
    "add_noise": Exercise(
        _add_noise,
        {
            _add_noise_variance: "sigma is a standard deviation here, not a variance: it multiplies the unit noise as it is.",
            _add_noise_preserving: "That is DDPM's variance-preserving form. In this package the data keep their size.",
        },
        "The noisy picture is the clean one plus noise; sigma says how many times the unit noise. Nothing shrinks x0.",
        lambda: [(_normal(3, 2), s, _normal(2, 3).T) for s in (0.5, 0.9)],
    ),
    "one_step": Exercise(
        _one_step,
        {
            _one_step_unscaled: "The model was told sigma_max but received noise of size 1: multiply the noise first.",
            _one_step_wrong_level: "At sigma = 0.002 a consistency model returns its input: tell it the level that x really has.",
        },
        "Two lines: make the starting point, sigma_max times unit noise, then call f on it with the level that it has.",
        lambda: [(_blob().consistency, _normal(4, 2), s) for s in (80.0, 10.0)],
    ),
    "diffuse": Exercise(
        _diffuse,
        {
            _diffuse_like_an_ode: "dw is not dsigma: over a stretch dsigma, Brownian motion moves by sqrt(dsigma) z.",
            _diffuse_without_two: "g(t) = sqrt(2 t): the 2 is missing, so the variance comes out half as large.",
        },
        "One step adds g(sigma) * dw, with g(sigma) = sqrt(2 * sigma) and dw = sqrt(dsigma) * z[k].",
        lambda: [(_normal(5, 2), torch.linspace(0.5, 2, 9, dtype=torch.float64), _normal(8, 5, 2))],
    ),
    "tweedie": Exercise(
        _tweedie,
        {
            _tweedie_first_power: "One factor sigma is missing: a score is 1/length, so it takes a length squared.",
            _tweedie_uphill: "The sign is turned: the score points to where data are dense, so the clean point lies along it.",
        },
        "The score is (D - x) / sigma^2. Solve for D.",
        lambda: [(_normal(6, 2), torch.tensor(s, dtype=torch.float64), _normal(2, 6).T) for s in (0.3, 3.0)],
    ),
    "euler_solve": Exercise(
        _euler_solve,
        {
            _euler_solve_as_printed: "That is the slide's Phi = -s. Eq. 3 has a factor t in front of the score: dx/dt = -t s.",
            _euler_solve_backwards: "sigmas decrease, so every step is negative: you walk away from the data.",
        },
        "Eq. 3 is dx/dsigma = -sigma * s = (x - D) / sigma. Take that slope at x, times the step sigmas[k + 1] - sigmas[k].",
        lambda: [(_blob(), 3 * _normal(4, 2), torch.tensor(grid, dtype=torch.float64)) for grid in ((3.0, 2.0), (2.0, 0.8, 0.1))],
    ),
}  # fmt: skip

QUIZZES: dict[str, tuple[Question, ...]] = {
    "00": (
        Question(
            "What does a consistency model return when you call it at the lowest level, sigma = 0.002?",
            {
                "a": ("the mean of the data", "That is what a diffusion model's denoiser returns at the highest level."),
                "b": ("its input", "This is the boundary condition; it holds bit for bit, whatever the weights are."),
                "c": ("pure noise", "Nothing in cmlab turns data into noise except the line that adds it."),
            },
            "b",
        ),
        Question(
            "Why does one step of the diffusion model give a blur?",
            {
                "a": ("It was trained for too short a time.", "A perfect denoiser does the same: see the oracle in notebook 01."),
                "b": ("Its weights are stored in half precision.", "The same weights give sharp digits in 18 steps."),
                "c": ("Its answer at high noise is an average over the data.", "Yes: D is a mean, f is one end point."),
            },
            "c",
        ),
        Question(
            "You leave an exercise unsolved. What do the later cells run on?",
            {
                "a": ("on the library's answer", "Yes, so you can read on and come back."),
                "b": ("they stop with an error", "Try it: choose 'Run All Cells' in a fresh notebook."),
            },
            "a",
        ),
    ),
    "01": (
        Question(
            "x is a sum of data and noise of size sigma. What is the exact D(x, sigma)?",
            {
                "a": ("the data point that was used", "Several data points could have given this x; D averages over them."),
                "b": ("the mean of x0 given x", "Yes, and Tweedie's formula gets it from the score."),
                "c": ("the end of the PF-ODE path through x", "That is f. The two agree only when sigma is small."),
            },
            "b",
        ),
        Question(
            "What do the SDE and the PF-ODE have in common?",
            {
                "a": ("the distribution of x at every noise level", "Yes: the marginals, nothing more."),
                "b": ("the paths", "The fans show it: one path against many from the same start."),
                "c": ("the joint distribution of start and end", "The printed correlations differ."),
            },
            "a",
        ),
        Question(
            "Which number must a consistency model return for two points of the same path?",
            {
                "a": ("their own denoised means D", "D changes along the path: see the last column of the table."),
                "b": ("the same end point", "Yes: self-consistency is the definition turned into a training signal."),
                "c": ("their difference over the step", "That is the slope that an ODE solver uses."),
            },
            "b",
        ),
    ),
}  # fmt: skip
