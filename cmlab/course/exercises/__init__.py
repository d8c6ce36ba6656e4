"""The exercises and quizzes of the lessons, a file per lesson. `cmlab.teach` shows them."""

from importlib import import_module

from .base import OPEN, RIGHT, WRONG, Exercise, Question

__all__ = ["EXERCISES", "OPEN", "QUIZZES", "RIGHT", "WRONG", "Exercise", "Question"]

_LESSONS = tuple(import_module(f"{__name__}.lesson{number:02}") for number in range(13))
EXERCISES: dict[str, Exercise] = {exercise.name: exercise for lesson in _LESSONS for exercise in lesson.EXERCISES}
QUIZZES: dict[str, tuple[Question, ...]] = {lesson.__name__[-2:]: lesson.QUIZ for lesson in _LESSONS}  # by the lesson's number
