"""A lesson exported by nbconvert keeps its figures: in HTML with their alt texts, in LaTeX as files."""

import json
import re
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter, LatexExporter

# It has figures of every kind: points, curves, pictures, rows side by side, and the plane, whose frame no PDF takes.
LESSON = Path(__file__).parents[2] / "notebooks" / "04_consistency_distillation.ipynb"


def test_an_exported_lesson_has_every_figure():
    notebook = nbformat.read(LESSON, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    metadata = [output.metadata["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert len(metadata) >= 6 and all(picture["alt"].split("\n")[0] in page for picture in metadata)
    assert len(re.findall(r"<img[^>]* alt=", page)) >= len(metadata)
    # Its prose goes through pandoc, which need not be here; its figures do not.
    nothing = json.dumps({"pandoc-api-version": [1, 22], "meta": {}, "blocks": []})
    prose = {name: lambda *_, **__: nothing for name in ("markdown2latex", "convert_pandoc", "resolve_references")}
    latex, resources = LatexExporter(filters=prose).from_notebook_node(notebook)
    named = re.findall(r"\\(?:adjustimage|includegraphics)[^\n]*\{([^{}]+\.png)\}", latex)
    assert len(named) == len(metadata) and sorted(named) == sorted(resources["outputs"])
