"""``python -m cmlab`` is the command line."""

from .cli import run

run()
