"""What a wheel holds, built here from the tree and from its own sdist, without a network."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("setuptools", minversion="77", reason="the builder of wheels is an extra: pip install cmlab[dev]")

TREE = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv.pop(1))(sys.argv.pop(1))"


def build(what: str, tree: Path, target: Path) -> Path:
    """The one file that ``what``, a function of a build backend, leaves in the new folder ``target``."""
    target.mkdir()
    done = subprocess.run([sys.executable, "-c", BUILD, what, str(target)], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(target.iterdir())


def small(source: str, target: str) -> str:
    """Copy a file, or leave an empty one in the place of weights: only their names matter here."""
    return str(Path(target).touch() or target) if source.endswith(".safetensors") else shutil.copy(source, target)


def test_a_wheel_holds_the_package_the_app_the_models_and_the_lessons(tmp_path):
    if not (TREE / "setup.py").is_file():
        pytest.skip("not a clone")
    tree = tmp_path / "tree"
    tree.mkdir()
    for path in TREE.iterdir():
        if path.is_file():
            shutil.copy(path, tree)
    for name in ("cmlab", "notebooks"):
        shutil.copytree(TREE / name, tree / name, copy_function=small, ignore=shutil.ignore_patterns("__pycache__"))
    wheel = zipfile.ZipFile(build("build_wheel", tree, tmp_path / "wheel"))
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    package = {path.relative_to(tree).as_posix() for path in (tree / "cmlab").rglob("*") if path.is_file()}
    lessons = {f"cmlab/lessons/{path.name}" for path in (TREE / "notebooks").glob("*.ipynb")} | {
        "cmlab/lessons/README.md",
        "cmlab/lessons/derivations.md",
        "cmlab/lessons/eighty_lines.py",
    }
    assert held == package | lessons and len(lessons) == 16
    assert {"cmlab/py.typed", "cmlab/__init__.pyi", "cmlab/app/page.py", "cmlab/pretrained/README.md"} <= held
    for name in lessons:
        assert wheel.read(name) == (TREE / "notebooks" / Path(name).name).read_bytes()

    shutil.rmtree(tree / "build")
    shutil.unpack_archive(build("build_sdist", tree, tmp_path / "sdist"), tmp_path / "unpacked")
    again = zipfile.ZipFile(build("build_wheel", next((tmp_path / "unpacked").iterdir()), tmp_path / "again"))
    assert again.namelist() == wheel.namelist()
    assert all(again.read(name) == wheel.read(name) for name in held)
