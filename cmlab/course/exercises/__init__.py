"""The exercises and quizzes of the lessons, a file per lesson. `cmlab.teach` shows them."""

from . import lesson00, lesson01, lesson02, lesson03, lesson04, lesson05, lesson06, lesson07, lesson08, lesson09, lesson10, lesson11
from .base import OPEN, RIGHT, WRONG, Exercise, Question

__all__ = ["EXERCISES", "LESSONS", "OPEN", "QUIZZES", "RIGHT", "WRONG", "Exercise", "Question"]

LESSONS = {
    "00": lesson00,
    "01": lesson01,
    "02": lesson02,
    "03": lesson03,
    "04": lesson04,
    "05": lesson05,
    "06": lesson06,
    "07": lesson07,
    "08": lesson08,
    "09": lesson09,
    "10": lesson10,
    "11": lesson11,
}

EXERCISES: dict[str, Exercise] = {name: exercise for lesson in LESSONS.values() for name, exercise in lesson.EXERCISES.items()}
QUIZZES: dict[str, tuple[Question, ...]] = {number: lesson.QUIZ for number, lesson in LESSONS.items()}
