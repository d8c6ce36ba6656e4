"""Exercises, predictions, quizzes, sliders and figures: what a reader types and what comes back."""

import base64
import inspect
import io
import re
import sys
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from cmlab import plots
from cmlab.course import teach
from cmlab.course.exercises import EXERCISES, OPEN, QUIZZES, RIGHT, WRONG
from cmlab.formats import checkpoints

MISTAKES = [
    pytest.param(exercise, message, id=f"{name}-{number}")
    for name, exercise in EXERCISES.items()
    for number, message in enumerate(exercise.mistakes)
]


@pytest.fixture
def shown(monkeypatch):
    """Everything that would have been displayed, as (html, text, other data and metadata)."""
    outputs = []

    def keep(html, text, extra=None, metadata=None):
        outputs.append((html, text, {**(extra or {}), **(metadata or {}).get("image/png", {})}))

    monkeypatch.setattr(teach, "_emit", keep)
    return outputs


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(teach, "_results", {})
    monkeypatch.setattr(teach, "_predictions", {})


def figure(width: float = 3.0) -> Figure:
    return plots.plot_curves({"a": ([1, 2], [1, 2])}, "x", f"y {width}")


def named(name: str, function):
    function.__name__ = name
    return function


# --- exercises -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXERCISES)
def test_the_revealed_source_is_a_right_answer(name, shown):
    scope: dict[str, Any] = {"torch": torch, "teach": teach}  # all that a notebook has to offer
    exec(EXERCISES[name].source, scope)
    assert teach.check(scope[name]) is scope[name]
    assert f"{name}: {RIGHT}" in shown[-1][1]


@pytest.mark.parametrize(("exercise", "message"), MISTAKES)
def test_a_typical_mistake_changes_each_of_its_places_once(exercise, message):
    lines = exercise.source.splitlines()
    assert exercise.mistakes[message] and all(exercise.source.count(old) == 1 for old in exercise.mistakes[message])
    one_by_one = exercise.source
    for number, old in enumerate(exercise.mistakes[message]):
        one_by_one = one_by_one.replace(old, f"<{number}>")
    for number, new in enumerate(exercise.mistakes[message].values()):
        assert one_by_one.count(f"<{number}>") == 1  # it overlaps with no other
        one_by_one = one_by_one.replace(f"<{number}>", new)
    assert exercise.variant(message) == one_by_one != exercise.source
    assert one_by_one.splitlines()[0] == lines[0]  # the same function to call


@pytest.mark.parametrize(("exercise", "message"), MISTAKES)
def test_a_typical_mistake_is_named_and_the_hint_given(exercise, message, shown):
    name = exercise.name
    scope: dict[str, Any] = {"torch": torch}
    exec(exercise.variant(message), scope)
    assert teach.check(scope[name]) is exercise.answer
    html, text, _ = shown[-1]
    assert f"{name}: {WRONG}" in text and message in text and exercise.hints[0] in text
    assert (
        "<details><summary>Where to look</summary>" in html
        and "<summary>The idea</summary>" in html
        and "<summary>Reveal the answer</summary>" in html
    )


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_has_a_mistake_and_a_hint_that_does_not_give_the_answer_away(name):
    exercise = EXERCISES[name]
    assert exercise.mistakes and all(exercise.mistakes)
    plain = [re.sub(r"\W", "", hint) for hint in exercise.hints]  # no spaces, brackets, operators
    steps = [line.split("= ")[-1].removeprefix("    return ") for line in exercise.source.splitlines()[1:]]
    assert not any(step in hint for step in (re.sub(r"\W", "", step) for step in steps) if len(step) > 8 for hint in plain)
    assert len(plain) == 2 and plain[0] != plain[1]


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("value", [None, ...])
def test_an_unsolved_exercise_falls_back(name, value, shown):
    count = len(inspect.signature(EXERCISES[name].answer).parameters)
    attempt = named(name, (lambda a, b, c: value) if count == 3 else lambda *args: value)
    assert teach.check(attempt) is EXERCISES[name].answer
    assert f"{name}: {OPEN}" in shown[-1][1] and "not yet right" not in shown[-1][1]


def test_an_ellipsis_left_in_the_middle_is_unsolved_not_wrong():
    assert EXERCISES["tweedie"].judge(lambda x, sigma, score: x + ...)[0] == OPEN


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda x, sigma, score: 1 / 0, "ZeroDivisionError"),
        (lambda x, sigma: x, "TypeError"),
        (lambda x, sigma, score: (x + sigma**2 * score)[:1], "expected shape (6, 2), got (1, 2)"),
        (lambda x, sigma, score: x * float("nan"), "not finite"),
        (lambda x, sigma, score: "x", "got str"),
        (lambda x, sigma, score: x + 1.01 * sigma**2 * score, "expected"),
    ],
)
def test_other_mistakes_are_described(attempt, message):
    verdict, text = EXERCISES["tweedie"].judge(attempt)
    assert verdict == WRONG and message in text


def test_rounding_and_another_order_of_operations_are_forgiven():
    assert EXERCISES["tweedie"].judge(lambda x, sigma, score: x.float() + sigma.float() ** 2 * score.float())[0] == RIGHT


def test_an_attempt_that_writes_into_its_arguments_is_wrong_and_spoils_no_test():
    def in_place(x, sigma, score):
        return x.add_(sigma**2 * score)

    exercise = EXERCISES["tweedie"]
    for _ in range(2):
        assert exercise.judge(in_place)[0] == WRONG and "x is changed" in exercise.judge(in_place)[1]
    assert exercise.judge(exercise.answer) == (RIGHT, "")


def test_help_and_unknown_names(shown):
    teach.hint("tweedie")
    teach.reveal("tweedie")
    teach.hint("tweedie", 2)
    assert [EXERCISES["tweedie"].hints[k] in shown[2 * k][1] for k in (0, 1)] == [True, True]
    assert shown[1][1] == "def tweedie(x, sigma, score):\n    return x + sigma**2 * score"
    with pytest.raises(ValueError, match="hints 1 and 2"):
        teach.hint("tweedie", 3)
    for function in (teach.hint, teach.reveal):
        with pytest.raises(ValueError, match="did you mean 'tweedie'"):
            function("tweedy")
    with pytest.raises(ValueError, match="unknown exercise"):
        teach.check(named("my_function", lambda: 1))


def test_outside_a_notebook_the_text_is_printed(capsys, monkeypatch):
    monkeypatch.setattr(teach, "_shell", lambda: None)
    teach.caption("The error halves.")
    assert capsys.readouterr().out == "The error halves.\n"


# --- predictions and quizzes ---------------------------------------------------------------------------------------------


def test_a_prediction_is_held_against_the_run(shown):
    options = {"a": "falls", "b": "rises"}
    for guess, said in (("a", "You guessed a, as it happened"), ("b", "You guessed b (rises)"), ("", "You made no guess")):
        teach.predict("error", "The error", options, guess=guess)
        teach.outcome("error", "a", "It went from 2 to 1.")
        assert said in shown[-1][1] and "The run says a: falls" in shown[-1][1] and "from 2 to 1" in shown[-1][1]
    assert "a: falls" in shown[0][1] and "b: rises" in shown[0][1]


def test_predictions_refuse_what_they_do_not_know(shown):
    with pytest.raises(ValueError, match="unknown prediction"):
        teach.outcome("error", "a", "")
    with pytest.raises(ValueError, match="unknown option"):
        teach.predict("error", "The error", {"a": "falls"}, guess="c")
    teach.predict("error", "The error", {"a": "falls"})
    with pytest.raises(ValueError, match="unknown option"):
        teach.outcome("error", "c", "")


def test_a_click_is_a_guess_where_widgets_are_live(shown, monkeypatch):
    from ipywidgets import RadioButtons

    made = []
    monkeypatch.setattr(teach, "live", lambda: True)
    monkeypatch.setattr("IPython.display.display", made.append)
    teach.predict("error", "The error", {"a": "falls", "b": "rises"})
    buttons, said = made[0].children
    assert isinstance(buttons, RadioButtons) and buttons.value is None and said.value == ""
    assert [text for text, _ in buttons.options] == ["falls", "rises"]  # the answers, not their letters
    buttons.value = "b"
    assert said.value.startswith("Your guess: b.")
    teach.outcome("error", "b", "")
    assert "You guessed b, as it happened" in shown[-1][1]


@pytest.mark.parametrize("lesson", QUIZZES)
def test_quizzes_judge_every_option(lesson, shown):
    questions = QUIZZES[lesson]
    for question in questions:
        assert question.right in question.options and all(all(pair) for pair in question.options.values())
    teach.quiz(lesson, *(question.right for question in questions))
    assert shown[-1][1].count("✓ right") == len(questions)
    teach.quiz(lesson, *(next(key for key in question.options if key != question.right) for question in questions))
    assert shown[-1][1].count("✗ not yet") == len(questions)
    teach.quiz(lesson)
    assert shown[-1][1].count("no answer yet") == len(questions)
    with pytest.raises(ValueError, match="questions, got"):
        teach.quiz(lesson, *["a"] * (len(questions) + 1))
    with pytest.raises(ValueError, match="question 1: unknown option"):
        teach.quiz(lesson, "z")


def test_an_unknown_quiz_is_an_error():
    with pytest.raises(ValueError, match="unknown quiz"):
        teach.quiz("99")


def test_the_quiz_lists_the_exercises_so_far(shown):
    teach.check(named("tweedie", lambda x, sigma, score: x + sigma**2 * score))
    teach.check(named("diffuse", lambda x, sigmas, z: None))
    teach.quiz("01")
    assert shown[-1][1].endswith("Exercises so far: tweedie right, diffuse not solved yet.")


# --- figures and sliders -------------------------------------------------------------------------------------------------


def test_a_figure_has_alt_text_and_a_caption(shown):
    teach.show(figure(), 'Two points & a "line" between', "It rises.")
    (html, text, data), (caption, said, _) = shown
    assert base64.b64decode(data["image/png"])[:4] == b"\x89PNG" and not html  # a PDF shows it, too
    assert data["alt"] == 'Two points & a "line" between' and text == f"[{data['alt']}]"
    assert 'aria-label="Figure: Two points &amp; a &quot;line&quot; between It rises."' in caption
    assert "<i>It rises.</i>" in caption and said == "It rises."
    with pytest.raises(ValueError, match="describe the figure"):
        teach.show(figure(), "plot", "It rises.")


def test_the_same_figure_gives_the_same_bytes():
    assert teach._png(figure(), 80) == teach._png(figure(), 80)


def test_a_plotly_figure_travels_as_data_with_a_still_picture(shown):
    path = torch.randn(5, 2, 2, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([80.0, 5.0, 1.0, 0.1, 0.002])
    interactive = plots.trajectories_3d(path, sigmas)
    with pytest.raises(ValueError, match="needs static="):
        teach.show(interactive, "Two paths in three dimensions", "They part.")
    teach.show(interactive, "Two paths in three dimensions", "They part.", plots.trajectories_3d_static(path, sigmas))
    _, _, extra = shown[0]
    assert extra["alt"] == "Two paths in three dimensions" and extra["image/png"]
    assert len(extra["application/vnd.plotly.v1+json"]["data"]) == 2
    assert "They part." in shown[1][0]


def test_explore_without_widgets_shows_small_multiples(shown, monkeypatch):
    drawn = []

    def draw(value):
        drawn.append(value)
        return figure(value)

    teach.explore(draw, range(11), name="n", alt=lambda n: f"a line for n equal to {n}", caption="It grows.", panels=3)
    assert drawn == [0, 5, 10]  # nothing is drawn in vain
    (_, _, data), (caption, _, _) = shown
    assert data["alt"] == "\n".join(f"n = {n}: a line for n equal to {n}" for n in drawn) and "It grows." in caption
    tiles = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert 1.2 < tiles.width / tiles.height < 1.6  # two above one: wide figures
    with pytest.raises(ValueError, match="at least one value"):
        teach.explore(draw, [], name="n", alt=str, caption="")
    teach.explore(draw, [1], name="n", alt=lambda n: "a line for the only value", caption="It is there.")
    assert shown[-2][2]["alt"] == "n = 1: a line for the only value"


def test_explore_with_widgets_adds_a_slider_over_all_values(shown, monkeypatch):
    made = []
    monkeypatch.setattr(teach, "live", lambda: True)
    monkeypatch.setattr("IPython.display.display", made.append)
    teach.explore(figure, [1.0, 2.0, 3.0, 4.0], name="n", alt=lambda n: f"a line for n equal to {n}", caption="It grows.", panels=2)
    assert shown[0][2]["alt"].count("a line for") == 2
    slider, picture = made[0].children
    assert slider.label == "3.0" and "equal to 3.0" in picture.value  # not at an end, where least is to be seen
    assert [label for label, _ in slider.options] == ["1.0", "2.0", "3.0", "4.0"]
    slider.index = 1
    assert 'alt="a line for n equal to 2.0"' in picture.value


def test_widgets_are_live_only_in_front_of_a_reader(monkeypatch):
    class Shell:
        kernel = object()

    monkeypatch.delenv("CMLAB_STATIC", raising=False)
    assert not teach.live()
    monkeypatch.setattr(teach, "_shell", Shell)
    assert teach.live()
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # not installed
    assert not teach.live()
    monkeypatch.delitem(sys.modules, "ipywidgets")
    monkeypatch.setenv("CMLAB_STATIC", "1")
    assert not teach.live()


# --- the rest ------------------------------------------------------------------------------------------------------------


def test_fast_mode_shrinks(monkeypatch):
    monkeypatch.delenv("CMLAB_FAST", raising=False)
    assert teach.scale(100, 5) == 100
    monkeypatch.setenv("CMLAB_FAST", "1")
    assert teach.fast() and teach.scale(100, 5) == 5


def test_missing_checkpoints_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    with pytest.raises(checkpoints.CheckpointError, match="cmlab train two-moons-edm, cmlab train two-moons-cd"):
        teach.models("two-moons-edm", "two-moons-cd")


def test_models_are_the_bundled_ones_or_the_readers_own(tmp_path, monkeypatch):
    from cmlab.training import presets

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path / "bundled")
    model = presets.build_model(presets.get_preset("two-moons-edm"))
    checkpoints.save("runs/two-moons-edm.safetensors", model)
    (own,) = teach.models("two-moons-edm")
    assert own.shape == (2,) and not any(p.requires_grad for p in own.parameters())
