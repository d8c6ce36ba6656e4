"""Answers as students write them, right and wrong, all judged as they should be."""

import ast
import inspect
import textwrap
from typing import Any

import answers
import pytest
import torch

from cmlab.course import exercises
from cmlab.course.exercises import EXERCISES

TABLE = [
    pytest.param(name, body, verdict, id=f"{name}-{verdict.replace(' ', '-')}-{number}")
    for verdict, rows in ((exercises.RIGHT, answers.RIGHT), (exercises.WRONG, answers.WRONG))
    for name, bodies in rows.items()
    for number, body in enumerate(bodies)
]


def written(name: str, body: str) -> Any:
    """The function that a student wrote."""
    try:
        ast.parse(body, mode="eval")
        body = f"return {body}"
    except SyntaxError:
        pass
    source = f"def {name}{inspect.signature(EXERCISES[name].answer)}:\n{textwrap.indent(body, '    ')}"
    scope: dict[str, Any] = {"torch": torch}
    exec(source, scope)
    return scope[name]


@pytest.mark.parametrize(("name", "body", "verdict"), TABLE)
def test_an_answer_is_judged_rightly(name, body, verdict):
    said, why = EXERCISES[name].judge(written(name, body))
    assert said == verdict, why
    assert "raised" not in why


def test_every_exercise_has_two_right_and_three_wrong_answers():
    assert list(answers.RIGHT) == list(answers.WRONG) == list(EXERCISES) and len(TABLE) >= 150
    assert all(len(set(bodies)) >= 2 for bodies in answers.RIGHT.values())
    assert all(len(set(bodies)) >= 3 for bodies in answers.WRONG.values())


def said(name: str, body: str) -> str:
    return EXERCISES[name].judge(written(name, body))[1]


def test_what_values_do_not_show_is_said():
    no_gradient, both, wrong_side, *_ = (said("cd_loss", body) for body in answers.WRONG["cd_loss"])
    assert "no gradient reaches the weights of f" in no_gradient
    assert "a gradient reaches the weights of target" in both and "no gradient reaches the weights of f" in wrong_side
    assert "x0 is changed" in said("add_noise", answers.WRONG["add_noise"][0])
    assert "called 381 times; 60 are enough" in said("ternary", answers.WRONG["ternary"][0])


def test_no_diagnosis_is_a_coincidence_and_other_values_get_a_word():
    assert "rounds down" not in said("levels_at", answers.WRONG["levels_at"][0])  # round: right in some cases, floor in others
    assert "exact increment" in said("diffuse", answers.RIGHT["diffuse"][0])
    assert "divides by B - 1" in said("bias_and_noise", answers.RIGHT["bias_and_noise"][0])
