"""The app from a clone: ``make app``, or ``python app.py --help``. It is ``cmlab app``."""

from cmlab.commands.main import run

if __name__ == "__main__":
    run("app")
