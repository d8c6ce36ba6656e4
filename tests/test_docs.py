"""The texts: links lead somewhere, the README stays short, what it tells to run does run, and facts that stand twice agree."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import cmlab
from cmlab.commands.main import main
from cmlab.course.exercises import EXERCISES

ROOT = Path(__file__).parents[1]
TEXTS = sorted(path for folder in ("", "docs", "notebooks", "benchmarks", "tests", "cmlab") for path in (ROOT / folder).glob(
    "**/*.md" if folder else "*.md"
))  # fmt: skip
README = (ROOT / "README.md").read_text()
each_text = pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))


def prose(text: str) -> str:
    """``text`` without its code: blocks that are fenced or indented, and what stands between backticks."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^    .*$", "", text, flags=re.M))


def anchors(text: str) -> set[str]:
    """The names by which a link may call the headings of ``text``, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^    .*$", "", text, flags=re.M), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@each_text
def test_relative_links_lead_somewhere(path):
    for link in re.findall(r"\]\(([^()\s]+)\)", prose(path.read_text())):
        if re.match(r"\w+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{link}: no such file"
        assert not anchor or anchor in anchors(target.read_text()), f"{link}: no such heading"


@each_text
def test_files_that_are_named_exist(path):
    for name in re.findall(r"`((?:cmlab|tests|benchmarks|notebooks|docs)/[\w./-]*\w)", path.read_text()):
        assert (ROOT / name).exists(), name


def test_the_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 120
    assert max(len(line) for line in lines) <= 105
    for paragraph in re.split(r"\n\s*\n", prose(README)):
        words = [line for line in paragraph.splitlines() if line.strip() and not re.match(r"[|#!-]", line)]
        assert len(words) <= 4, paragraph


PROGRAMS = [
    pytest.param(block, id=f"{path.relative_to(ROOT)}{number}")
    for path in TEXTS
    if path.name != "extending.md"  # what that registers would stay
    for number, block in enumerate(re.findall(r"(?:^(?:    .*)?\n)+", path.read_text(), re.M))
    if re.search(r"^    (from|import) ", block, re.M)
]


@pytest.mark.parametrize("block", PROGRAMS)
def test_the_programs_in_the_texts_run(block, tmp_path, monkeypatch):
    program = block.replace("steps=1000", "steps=3").replace("range(2000)", "range(20)")
    (tmp_path / "program.py").write_text(re.sub(r"^    ", "", program, flags=re.M))
    monkeypatch.chdir(tmp_path)
    runpy.run_path("program.py")
    for name in re.findall(r'savefig\("(.*?)"', block):
        assert (tmp_path / name).stat().st_size > 1000


COMMANDS = [
    pytest.param(line.split("#")[0].split(), id=line.split("#")[0].strip())
    for path in TEXTS
    for line in re.findall(r"^    (cmlab [a-z].*)$", path.read_text(), re.M)
]


@pytest.mark.parametrize("words", COMMANDS)
def test_the_commands_that_are_named_know_their_options(words, capsys):
    _, command, *rest = words
    preset = rest[:1] if command == "train" else []
    if preset == ["--config"]:  # the file says which preset: any one's help has the options, that of the command this one
        assert main([command, "--help"]) == 0
        preset = ["two-moons-edm"]
    assert main([command, *preset, "--help"]) == 0
    told = set(re.findall(r"--[\w.-]+", capsys.readouterr().out))
    assert {word for word in rest if word.startswith("--")} <= told


def test_a_users_own_file_as_the_text_has_it_is_known_to_the_commands(tmp_path):
    text = (ROOT / "docs" / "extending.md").read_text()
    blocks = [block for block in re.findall(r"(?:^(?:    .*)?\n)+", text, re.M) if block.strip()]
    (tmp_path / "my_methods.py").write_text(re.sub(r"^    ", "", "\n".join(blocks), flags=re.M))
    commands = [words.split() for words in re.findall(r"^`cmlab (--import my_methods .*)`$", text, re.M)]
    assert len(commands) == 5
    shorter = [["2" if word in ("10", "1000") else word for word in words] for words in commands]
    program = f"from cmlab.commands.main import main; print([main(words) for words in {shorter}])"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == [str([0] * 5)], done.stdout + done.stderr


def test_the_readmes_figures_are_those_of_the_results():
    table = README.split("## Results")[1].split("##")[0]
    figures = re.findall(r"\d+\.\d+(?= %| \|)", table)
    results = (ROOT / "docs" / "results.md").read_text()
    assert len(figures) == 25 and all(f" {figure} " in results for figure in figures)


def test_the_citation_is_of_this_version():
    assert re.search(rf"^version: {re.escape(cmlab.__version__)}$", (ROOT / "CITATION.cff").read_text(), re.M)


def test_the_teachers_guide_knows_every_lesson_and_every_exercise():
    text = (ROOT / "notebooks" / "TEACHING.md").read_text()
    rows = {row[0]: row[1:] for row in re.findall(r"^\| \[(\d\d)\]\((\S+)\) \| (\d+) \|", text, re.M)}
    lessons = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    said = {
        path.name[:2]: [(path.name, m) for m in re.findall(r"\*\*Time\*\* (\d+) minutes", path.read_text())] for path in lessons
    }
    assert {number: [row] for number, row in rows.items()} == said
    assert re.findall(r"^\| \d\d \| `(\w+)` \|", text, re.M) == list(EXERCISES)


def test_every_paper_that_is_named_by_its_number_is_in_the_bibliography():
    texts = [path for pattern in ("cmlab/**/*.py", "notebooks/*.ipynb") for path in ROOT.glob(pattern)] + TEXTS
    number = re.compile(r"(?<![\d.])(\d{4}\.\d{5})(?!\d)")
    list_of_all = (ROOT / "docs" / "bibliography.md").read_text()
    listed = set(re.findall(r"\| \[(\d{4}\.\d{5})\]\(https://arxiv\.org/abs/\1\) \|", list_of_all))
    sources = (re.sub(r'"image/png": ".*?"|base64,[^"]*', "", path.read_text()) for path in texts)
    found = {name for text in sources for name in number.findall(text) if "arxiv" in text.lower() and name[2:4] <= "12"}
    assert found == listed
