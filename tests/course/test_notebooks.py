"""The lessons: they run unsolved and solved, mistakes are caught, and what is committed keeps the rules of the series."""

import ast
import asyncio
import itertools
import json
import os
import pkgutil
import re
import runpy
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
import torch

from cmlab.course import teach
from cmlab.course.exercises import EXERCISES, OPEN, QUIZZES, WRONG

FOLDER = Path(__file__).parents[2] / "notebooks"
MAKE = runpy.run_path(str(FOLDER / "make.py"))
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PLAIN = FOLDER / "eighty_lines.py"  # lesson 12 without the words
EIGHTY = FOLDER / "12_eighty_lines.ipynb"  # it may hold algorithms, since it is about how to write them
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def functions(source: str) -> list[ast.FunctionDef]:
    return [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]


def exercises(notebook: nbformat.NotebookNode) -> list[str]:
    """The names of the functions under @teach.check."""
    found = [node for cell in code_cells(notebook) for node in functions(cell.source)]
    return [node.name for node in found if [ast.unparse(d) for d in node.decorator_list] == ["teach.check"]]


def solve(source: str, answers: dict[str, str]) -> str:
    """``source`` with the exercises' functions replaced."""
    lines = source.splitlines()
    for node in reversed(functions(source)):
        if node.name in answers and node.decorator_list:
            lines[node.decorator_list[0].lineno - 1 : node.end_lineno] = ["@teach.check", *answers[node.name].splitlines()]
    return "\n".join(lines)


ASKS = re.compile(r"@teach\.check|teach\.(outcome|explore)\(")
SPEED = re.compile(r"[\d.]+(?= ms| times faster)")


def text_of(cell: nbformat.NotebookNode) -> str:
    """The plain text of all its outputs, without what a clock has measured."""
    outputs = [output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", ())]
    return SPEED.sub("...", "\n".join(outputs))


# What a notebook finds in a kernel that has run others: an empty namespace, and nothing answered.
FRESH = """
get_ipython().reset(new_session=False)
from cmlab import teach
teach._results.clear()
teach._predictions.clear()
get_ipython().reset(new_session=False)
"""


# Pictures of the first run are enough: matplotlib takes a third of a lesson's time. A white point in their place.
NOT_DRAWN = """
import io, matplotlib.figure as drawing
from PIL import Image
point = io.BytesIO()
Image.new("RGB", (1, 1), "white").save(point, "PNG")
# Kept where no lesson's names reach.
drawing.Figure.as_drawn = drawing.Figure.savefig
drawing.Figure.savefig = lambda self, to, point=point.getvalue(), **_: to.write(point)
"""
DRAWN = "from matplotlib.figure import Figure as drawing; drawing.savefig = drawing.as_drawn"


@pytest.fixture(scope="module")
def kernel() -> Iterator[Any]:
    """One for all lessons: to start one costs more than most of them."""
    manager = MAKE["kernel"]()
    yield manager
    if manager.has_kernel:
        asyncio.run(manager.shutdown_kernel(now=True))


def solved(notebook: nbformat.NotebookNode, lesson: str) -> list[nbformat.NotebookNode]:
    """Its code cells as a diligent reader leaves them: exercises solved, quiz answered, a guess at every prediction."""
    answers = {name: EXERCISES[name].source for name in exercises(notebook)}
    right = ", ".join(repr(question.right) for question in QUIZZES[lesson])
    cells = []
    for cell in code_cells(notebook):
        source = re.sub(r'teach\.quiz\(".*\)', f"teach.quiz({lesson!r}, {right})", solve(cell.source, answers))
        for options in re.findall(r'(\{"[^{}]*\}), guess=""', source):
            source = source.replace(f'{options}, guess=""', f"{options}, guess={next(iter(ast.literal_eval(options)))!r}")
        cells.append(nbformat.v4.new_code_cell(source))
    return cells


REPLACE = re.compile(r"Replace `(.+?)` by `(.+?)` in the first cell and run all")
# Of a command that a lesson suggests: what keeps it short.
SHORT = {"train": "--steps 3 --overwrite", "evaluate": "--n 50", "search": "--n 50", "edit": ""}


def suggestions(notebook: nbformat.NotebookNode) -> list[tuple[str, Any]]:
    """What "Go further" suggests, to be run: ("python", code), ("bash", commands) or ("replace", (old, new))."""
    text = next(cell.source for cell in notebook.cells if "## Go further" in cell.source).split("## Go further")[1]
    fences = [(kind, textwrap.dedent(code)) for kind, code in re.findall(r" *```(python|bash)\n(.*?) *```", text, re.S)]
    return fences + [("replace", pair) for pair in REPLACE.findall(text)]


def commands(lines: str) -> str:
    """Code that runs command lines as the terminal would, but for a moment only."""
    words = [shlex.split(line)[1:] for line in lines.splitlines()]
    words = [[*line, *SHORT[line[0]].split()] for line in words]
    return f"from cmlab.commands.main import main\nassert [main(words) for words in {words}] == {[0] * len(words)}"


@each_notebook
def test_it_runs_unsolved_and_again_with_the_answers(path, kernel, tmp_path_factory):
    notebook, lesson = read(path), path.stem[:2]
    names = exercises(notebook)
    asked = notebook.copy()
    forward = solved(notebook, lesson)
    backward = [nbformat.v4.new_code_cell(cell.source) for cell in reversed(forward) if ASKS.search(cell.source)]
    further = []
    for kind, what in suggestions(notebook):
        again = [cell.source for cell in code_cells(notebook)] if kind == "replace" else []
        at = next((k for k, source in enumerate(again) if what[0] in source), 0)
        again[at : at + 1] = [again[at].replace(*what)] if again else [what if kind == "python" else commands(what)]
        assert kind != "replace" or what[1] in again[at]
        further += [nbformat.v4.new_code_cell(source) for source in again]
    fresh, plain, drawn = (nbformat.v4.new_code_cell(source) for source in (FRESH, NOT_DRAWN, DRAWN))
    asked.cells = [fresh, *notebook.cells, plain, *forward, *backward, drawn, *further]
    done = MAKE["execute"](asked, tmp_path_factory.getbasetemp(), {"CMLAB_FAST": "1", "OMP_NUM_THREADS": "1"}, kernel)
    assert not [o for cell in code_cells(done) for o in cell.outputs if o.get("name") == "stderr"]

    cells = iter(done.cells)
    parts = [list(itertools.islice(cells, n)) for n in (2 + len(notebook.cells), len(forward), len(backward))]
    first, second, _ = ("\n".join(map(text_of, part)) for part in parts)
    assert names and all(f"{name}: {OPEN}" in first for name in names)
    assert "You made no guess." in first and "You guessed" not in first and first.count("no answer yet") == len(QUIZZES[lesson])
    assert all(f"{name}: {teach.RIGHT}" in second for name in names)
    assert "You made no guess." not in second and "You guessed" in second
    assert second.count("✓ right") == len(QUIZZES[lesson])
    # Whoever goes back after the last cell, or runs a cell twice, sees what stood there: no later section changes a name it reads.
    said = {cell.source: text_of(cell) for cell in parts[1]}
    assert [text_of(cell) for cell in parts[2]] == [said[cell.source] for cell in parts[2]]


@each_notebook
def test_every_typical_mistake_is_caught_in_the_cell_it_is_made_in(path, capsys):
    notebook = read(path)
    for name in exercises(notebook):
        cell = next(cell for cell in code_cells(notebook) if any(node.name == name for node in functions(cell.source)))
        for message in EXERCISES[name].mistakes:
            source = solve(cell.source, {name: EXERCISES[name].variant(message)})
            node = next(node for node in functions(source) if node.name == name)
            scope = {"torch": torch, "teach": teach}
            exec(compile(ast.Module([node], []), "cell", "exec"), scope)
            said = capsys.readouterr().out
            assert f"{name}: {WRONG}" in said and message in said and EXERCISES[name].hints[0] in said
            assert scope[name] is EXERCISES[name].answer


def test_every_exercise_and_quiz_belongs_to_a_notebook():
    used = [name for path in NOTEBOOKS for name in exercises(read(path))]
    assert sorted(used) == sorted(EXERCISES)
    assert sorted(QUIZZES) == [path.stem[:2] for path in NOTEBOOKS]


# --- the rules of the series, on the committed files ---------------------------------------------------------------------


@each_notebook
def test_size_of_the_lesson(path):
    cells = [cell for cell in code_cells(read(path)) if cell.id != "install"]
    lines = [[line for line in cell.source.splitlines() if line.strip()] for cell in cells]
    assert len(cells) <= (15 if path == EIGHTY else 12)
    assert max(map(len, lines)) <= 15 and sum(map(len, lines)) <= 150
    assert max(len(line) for cell in lines for line in cell) <= 132
    assert path.stat().st_size <= 400_000 + 350_000 * path.read_text().count("srcdoc")  # the plane and a model


@each_notebook
def test_parts_of_the_lesson(path):
    notebook = read(path)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for part in (
        "**You will** (1)", "(2)", "(3)", "**You need**", "**Time** ", "minutes",
        "laptop CPU, under 60 s of computation, nothing to download",
        "Predict", "Exercise", "Explain", "Break it", "Explore", "Checkpoint", "## Go further", "Glossary",
    ):  # fmt: skip
        assert part.lower() in prose.lower(), part
    code = "\n".join(cell.source for cell in code_cells(notebook))
    for call in ("teach.predict(", "teach.outcome(", "@teach.check", "teach.explore(", "teach.quiz("):
        assert call in code
    assert len(re.findall(r"^\d\. ", prose.split("## Go further")[1], re.M)) == len(suggestions(notebook)) == 2


@each_notebook
def test_every_output_is_followed_by_words(path):
    cells = [cell for cell in read(path).cells if cell.source != MAKE["INSTALL"]]
    for cell, following in itertools.pairwise(cells):
        assert cell.cell_type == "markdown" or following.cell_type == "markdown"


@each_notebook
def test_no_algorithm_lives_in_the_notebook(path):
    # Apart from exercises, a function may only draw for explore(); plotting code and installs live in the library.
    for cell in code_cells(read(path)):
        assert not re.search(r"pyplot|pip install|https?://|^!|^%", cell.source, re.M)
        if path == EIGHTY:
            continue
        assert not re.search(r"^class ", cell.source, re.M)
        for node in functions(cell.source):
            assert node.decorator_list or f"teach.explore({node.name}," in cell.source


def definitions(source: str) -> dict[str, str]:
    """What ``source`` defines, by name."""
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return {node.name: ast.dump(node) for node in nodes}


@each_notebook
def test_the_cell_that_installs_stands_before_the_first_that_imports(path):
    wanted = MAKE["with_install"](read(path)).cells
    assert [(cell.id, cell.source) for cell in read(path).cells] == [(cell.id, cell.source) for cell in wanted]
    assert all(len(line) <= 100 for line in MAKE["INSTALL"].splitlines()) and len(MAKE["INSTALL"].splitlines()) <= 15


def test_the_cell_that_installs_says_what_it_lacks_and_why_it_fails(tmp_path):
    for source, error in (("", "write into SOURCE where it is"), (str(tmp_path / "none.whl"), "none.whl")):
        command = [sys.executable, "-S", "-c", f"import sys; sys.executable = {sys.executable!r}\n{MAKE['INSTALL']}"]
        env = {"CMLAB_SOURCE": source, "PATH": os.environ["PATH"]}
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.returncode == 1 and error in done.stderr


def test_the_eighty_lines_are_those_of_the_lesson_and_import_nothing_else():
    source = PLAIN.read_text()
    before, _, _ = "\n".join(cell.source for cell in code_cells(read(EIGHTY))).partition("import cmlab")
    taught, plain = definitions(before), definitions(source)
    assert len(plain) == 11 and all(taught[name] == plain[name] for name in plain if name != "main")
    lines = [
        line for line in source.removeprefix(ast.get_docstring(ast.parse(source), clean=False) or "").splitlines() if line.strip()
    ]
    assert len(lines) - 1 == 80  # without the docstring
    assert "cmlab" not in before and not re.search(r"^(?:import|from) (?!copy|math|itertools|torch)", source, re.M)
    sections = re.findall(r"^## (\d)", "\n".join(cell.source for cell in read(EIGHTY).cells).partition("import cmlab")[0], re.M)
    assert sections == list("1234567")


def test_the_eighty_lines_reach_the_data():
    with torch.random.fork_rng():
        found = runpy.run_path(str(PLAIN))["main"](steps=600, n=2000)
    assert found.pop("fresh data") < 0.03  # the floor
    assert len(found) == 5 and max(found.values()) < 0.08  # noise as wide as the data is 0.13 away


@each_notebook
def test_committed_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    for number, cell in enumerate(code_cells(notebook), 1):
        done = cell.execution_count == number and (cell.outputs or cell.id == "install")
        assert done, f"run 'make notebooks': {cell.source[:60]}"
        for output in cell.outputs:
            assert output.output_type in ("stream", "display_data") and output.get("name") != "stderr"
            assert not any("widget" in mime for mime in output.get("data", {}))


@each_notebook
def test_figures_can_be_read_without_seeing_them_and_seen_everywhere(path):
    seen = 0
    for cell in code_cells(read(path)):
        for output in cell.outputs:
            data, metadata = output.get("data", {}), output.get("metadata", {})
            if "image/png" in data:
                seen += 1
                assert len(metadata["image/png"]["alt"].split()) >= 4
            html = data.get("text/html", "")
            assert "<img" not in html or "image/png" in data  # a PDF takes no HTML
            assert all(re.search(r'alt="\w+ \w+ ', tag) for tag in re.findall(r"<img[^>]*>", html))
            assert "application/vnd.plotly.v1+json" not in data or "image/png" in data
    assert seen


@each_notebook
def test_nothing_of_the_machine_is_left(path):
    notebook = json.loads(path.read_text())
    assert notebook["metadata"] == MAKE["METADATA"]
    assert all(cell["metadata"] == {} for cell in notebook["cells"])
    without_pictures = re.sub(r"base64,[A-Za-z0-9+/=]+", "", path.read_text())
    assert not re.search(r"(?<![\w.])/(home|root|tmp|work|Users|usr)/", without_pictures)
    assert sys.prefix not in without_pictures and "<script" not in without_pictures and "cdn." not in without_pictures


# --- the tables of notebooks/README.md -----------------------------------------------------------------------------------

README = (FOLDER / "README.md").read_text()


def table(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading of the README; a formula may hold an escaped bar."""
    lines = README.split(f"## {heading}")[1].split("\n## ")[0].splitlines()
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def sections(reference: str) -> list[tuple[str, str]]:
    """(file, number of the section) of each lesson in "[01](01_from_noise_to_data.ipynb) §5, [05](...) §7"."""
    found = re.findall(r"\[(\d\d)\]\((\1_\w+\.ipynb)\) §(\d+)(?:, |$)", reference)
    assert ", ".join(f"[{number}]({file}) §{section}" for number, file, section in found) == reference
    return [(file, section) for _, file, section in found]


def assert_section_exists(reference: str) -> None:
    for file, section in sections(reference):
        prose = "\n".join(cell.source for cell in read(FOLDER / file).cells if cell.cell_type == "markdown")
        assert re.search(rf"^## {section} · ", prose, re.M), f"{file} has no section {section}"


def test_every_formula_slide_has_a_lesson_a_function_and_a_test():
    rows = table("Where each formula of the lecture is")
    assert len(rows) >= 60 and all(len(row) == 5 and all(row) for row in rows)
    for _, _, lesson, function, test in rows:
        assert sections(lesson)
        assert_section_exists(lesson)
        assert callable(pkgutil.resolve_name(function.strip("`"))) or pkgutil.resolve_name(function.strip("`"))
        file, name = test.strip("`").split("::")
        assert re.search(rf"^def {name}\(", (FOLDER.parent / file).read_text(), re.M), test


def test_every_erratum_is_shown_in_a_lesson():
    rows = table("Errata of the lecture's formulas")
    assert len(rows) >= 8 and all(len(row) == 3 and all(row) for row in rows)
    for _, _, lesson in rows:
        assert sections(lesson)
        assert_section_exists(lesson)


def test_the_readme_lists_every_lesson_and_every_term():
    listed = re.findall(r"^\| \[\d\d .*?\]\((.*?)\)", README, re.M)
    assert listed == [path.name for path in NOTEBOOKS]
    glossary = {row[0].lower(): row for row in table("용어 · Glossary")}
    assert all(len(row) == 4 and all(row) for row in glossary.values())
    for path in NOTEBOOKS:
        last = [cell.source for cell in read(path).cells if "Glossary" in cell.source][-1].split("Glossary")[-1]
        for line in [line for line in last.splitlines() if line.startswith("| ")][1:]:
            term = re.split(r"(?<!\\)\|", line)[1].strip()
            assert path.stem[:2] in glossary[term.lower()][3], f"{term} of {path.name}: run the glossary of README.md again"
