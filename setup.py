"""The one thing that pyproject.toml cannot say: a wheel holds the lessons of notebooks/, as cmlab/lessons."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithLessons(build_py):
    """Copy the lessons into what is built. An editable install needs no copy: `cmlab lab` finds the folder in the clone."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            lessons = Path(self.build_lib, "cmlab", "lessons")
            self.mkpath(str(lessons))
            beside = (Path("notebooks", name) for name in ("README.md", "derivations.md", "eighty_lines.py"))
            for path in [*sorted(Path("notebooks").glob("*.ipynb")), *beside]:
                self.copy_file(str(path), str(lessons / path.name))


setup(cmdclass={"build_py": BuildWithLessons})
