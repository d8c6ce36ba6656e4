"""``python -m cmlab`` is the command line."""

from .commands.main import run

run()
