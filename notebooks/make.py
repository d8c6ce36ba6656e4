"""Execute the notebooks and write their outputs back: ``python notebooks/make.py [name ...]``, or ``make notebooks``.

The result depends on the sources alone: no widgets, no timestamps, no kernel of the machine, no paths.
"""

import asyncio
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

HERE = Path(__file__).parent
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}

INSTALL = """# Where `import cmlab` would fail, as on Colab and Kaggle, this installs it.
import importlib.util
import os
import subprocess
import sys

SOURCE = os.environ.get("CMLAB_SOURCE", "")  # a wheel's path or address, or a clone's folder
if importlib.util.find_spec("cmlab") is None:
    if not SOURCE:
        raise ModuleNotFoundError("no cmlab here: write into SOURCE where it is, then run this")
    pip = [sys.executable, "-m", "pip", "install", "-q", SOURCE]
    done = subprocess.run(pip, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    importlib.invalidate_caches()"""


def with_install(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with the cell ``INSTALL`` before the first one that imports cmlab, in the place of an older one."""
    cells = [cell for cell in notebook.cells if cell.id != "install"]
    first = next(
        k for k, cell in enumerate(cells) if cell.cell_type == "code" and re.search(r"(?m)^(import|from) cmlab", cell.source)
    )
    notebook.cells = [*cells[:first], nbformat.v4.new_code_cell(INSTALL, id="install"), *cells[first:]]
    return notebook


class ThisPython(KernelSpecManager):
    """Whatever kernel a notebook asks for, it gets the Python that runs this file: no installed kernelspec is looked at."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The one specification."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


def notebooks() -> list[Path]:
    """The lessons, in reading order."""
    return sorted(HERE.glob("[0-9][0-9]_*.ipynb"))


def kernel() -> AsyncKernelManager:
    """The manager of a kernel that is not started yet."""
    return AsyncKernelManager(kernel_spec_manager=ThisPython())


def execute(
    notebook: nbformat.NotebookNode,
    folder: Path = HERE,
    env: Mapping[str, str] | None = None,
    lasting: AsyncKernelManager | None = None,
) -> nbformat.NotebookNode:
    """Run all cells in ``folder`` with ``env`` added to the environment; returns the notebook with clean outputs.

    The kernel is a new one, or ``lasting``: that is started where it does not run yet, and left as the notebook leaves it.
    Raises nbclient's CellExecutionError at the first cell that fails.
    """
    manager = lasting or kernel()
    settings = {"CMLAB_STATIC": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=600,
        resources={"metadata": {"path": str(folder)}},
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
    )
    try:
        client.execute(env={**os.environ, **settings, **(env or {})})
    finally:  # a client leaves a kernel alone that it was given
        if client.kc is not None:
            client.kc.stop_channels()
        if lasting is None:
            asyncio.run(manager.shutdown_kernel(now=True))
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    return notebook


def main(names: list[str]) -> None:
    """Execute the named lessons, by number or name; all of them without names."""
    for path in notebooks():
        if names and not any(path.name.startswith(name) for name in names):
            continue
        clock = time.perf_counter()
        done = execute(with_install(nbformat.read(path, as_version=4)))
        part = path.with_suffix(".part")
        nbformat.write(done, part)
        part.replace(path)  # a run that is stopped leaves the old file
        print(f"{path.name}: {time.perf_counter() - clock:.0f} s, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
