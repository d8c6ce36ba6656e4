"""``cmlab lab`` and ``cmlab app``: the lessons that are copied out, and what is said where the extras are absent."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from cmlab.commands.lab import lesson_files
from cmlab.commands.main import main


def test_the_lessons_are_copied_and_a_changed_one_stays(tmp_path, capsys):
    folder, names = tmp_path / "my lessons", [path.name for path in lesson_files()]
    assert (
        len(names) == 16 and names[0] == "00_start_here.ipynb" and names[-3:] == ["README.md", "derivations.md", "eighty_lines.py"]
    )
    assert main(["lab", str(folder), "--no-open"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)
    assert "16 files copied, 0 were there" in capsys.readouterr().out
    mine = folder / names[3]
    mine.write_text("my notes")
    (folder / names[4]).unlink()
    assert main(["lab", str(folder), "--no-open"]) == 0
    said = capsys.readouterr().out
    assert "1 files copied, 15 were there" in said and "kept, though they differ from the lessons of this version" in said
    assert said.rstrip().endswith(names[3]) and mine.read_text() == "my notes"
    assert main(["lab", str(folder), "--no-open", "--overwrite"]) == 0
    assert f"replaced by the lessons of this version: {names[3]}" in capsys.readouterr().out
    assert mine.read_bytes() == lesson_files()[3].read_bytes()


@pytest.mark.parametrize(("command", "module", "extra"), [("lab", "jupyterlab", "cmlab[lab]"), ("app", "gradio", "cmlab[app]")])
def test_without_its_extra_a_command_says_what_to_install(tmp_path, monkeypatch, capsys, command, module, extra):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name == module or name.startswith("cmlab.app.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Absent(module), *sys.meta_path])
    assert main([command]) == 1
    said = capsys.readouterr().err
    assert f"pip install '{extra}'" in said and said.count("\n") == 1 and not list(tmp_path.iterdir())


class Absent:
    """A finder that stands before all others: the module is not installed."""

    def __init__(self, module: str):
        self.module = module

    def find_spec(self, name, path=None, target=None):
        if name == self.module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_jupyterlab_opens_on_the_folder(tmp_path, monkeypatch):
    opened = []
    monkeypatch.setitem(sys.modules, "jupyterlab", ModuleType("jupyterlab"))  # the real one takes seconds to import
    monkeypatch.setitem(sys.modules, "jupyterlab.labapp", SimpleNamespace(LabApp=SimpleNamespace(launch_instance=opened.append)))
    assert main(["lab", str(tmp_path / "x"), "--no-browser", "--port", "9999"]) == 0
    assert opened[0][:3] == [str(tmp_path / "x"), "--no-browser", "--port=9999"]
