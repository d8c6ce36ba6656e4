"""The programs in benchmarks/ find all that they import: nothing else runs most of them."""

import runpy
from pathlib import Path

import pytest

PROGRAMS = sorted((Path(__file__).parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_it_can_be_imported(path, monkeypatch):
    monkeypatch.syspath_prepend(str(path.parent))  # as Python does for a program
    try:
        runpy.run_path(str(path), run_name="imported")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "cmlab":
            raise
        pytest.skip(f"{error.name} is an extra")
