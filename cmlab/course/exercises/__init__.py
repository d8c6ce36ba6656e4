"""The exercises and quizzes of the lessons, a file per lesson. `cmlab.teach` shows them."""

from . import lesson00, lesson01, lesson02, lesson03, lesson04, lesson05, lesson06, lesson07, lesson08, lesson09, lesson10, lesson11
from .base import OPEN, RIGHT, WRONG, Exercise, Question

__all__ = ["EXERCISES", "OPEN", "QUIZZES", "RIGHT", "WRONG", "Exercise", "Question"]

_LESSONS = (lesson00, lesson01, lesson02, lesson03, lesson04, lesson05, lesson06, lesson07, lesson08, lesson09, lesson10, lesson11)
EXERCISES: dict[str, Exercise] = {exercise.name: exercise for lesson in _LESSONS for exercise in lesson.EXERCISES}
QUIZZES: dict[str, tuple[Question, ...]] = {lesson.__name__[-2:]: lesson.QUIZ for lesson in _LESSONS}  # by the lesson's number
