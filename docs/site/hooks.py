"""What the site holds: the repository's texts where they stand, so that their links stay true; the lessons with their saved
outputs; the API, from its docstrings; the plane; and what formulas and figures need, so that no page asks another server."""

import ast
import json
import re
from collections.abc import Iterator
from html import escape
from importlib.resources import files as packaged
from pathlib import Path
from posixpath import normpath

import nbformat
import plotly.offline
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from cmlab.app.browser import page as plane

ROOT = Path(__file__).parents[2]
CORE = ("noise", "denoiser", "oracle", "samplers", "schedules", "distances", "losses", "editing")  # in the order of reading
ROOMS = tuple(sorted(path.parent.name for path in ROOT.glob("cmlab/*/__init__.py")))
TEXTS = ("*.md", "docs/*.md", "notebooks/*.md", "benchmarks/*.md", "tests/reference/*.md", "cmlab/pretrained/**/*.md")
LESSONS = sorted(ROOT.glob("notebooks/*.ipynb"))
LINK = re.compile(r"(\]\()([^()\s#:]+)(?=[#)])")

outputs: dict[str, list[str]] = {}  # of the lessons' cells: they join their page when its Markdown is HTML


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the navigation's two lists that the repository's files decide."""
    lists = {
        "LESSONS": [f"notebooks/{path.stem}.md" for path in LESSONS],
        "REFERENCE": [f"reference/{name}.md" for name in (*CORE, *ROOMS)],
    }
    for section in config.nav:
        for title, pages in section.items():
            if isinstance(pages, list):
                section[title] = [page for entry in pages for page in lists.get(entry, [entry])]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add everything that is not in docs/site/static."""

    def add(uri: str, **source: object) -> None:
        files.append(File.generated(config, uri, **source))

    texts = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for pattern in TEXTS for path in ROOT.glob(pattern)}
    texts |= {f"notebooks/{path.stem}.md": lesson(path) for path in LESSONS}
    texts |= {f"reference/{name}.md": reference(name) for name in (*CORE, *ROOMS)}
    texts |= {"reference/README.md": contents(), "plane.md": PLANE}
    for uri, text in texts.items():
        add(uri, content=text)
    linked = {normpath(f"{uri}/../{link}") for uri, text in texts.items() for _, link in LINK.findall(text)}
    linked |= {path.relative_to(ROOT).as_posix() for path in LESSONS}
    for uri in sorted(linked - texts.keys()):
        if (ROOT / uri).is_file():
            add(uri, abs_src_path=str(ROOT / uri))
    add("exported/plane.html", content=plane())
    add("plotly.min.js", content=plotly.offline.get_plotlyjs())
    for name in ("LICENSE", "es5/tex-svg-full.js"):  # one file, with its fonts and all extensions
        add(f"mathjax/{Path(name).name}", content=(packaged("mathjax") / "static/mathjax" / name).read_text("utf-8"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links to notebooks and folders to their pages, and say in Python-Markdown what the texts say in CommonMark."""

    def page_of(match: re.Match[str]) -> str:
        uri = normpath(f"{page.file.src_uri}/../{match[2]}")
        if uri == "cmlab":
            return f"{match[1]}reference/README.md"
        return match[1] + (match[2].removesuffix(".ipynb") + ".md" if match[2].endswith(".ipynb") else match[2])

    if page.file.src_uri.startswith("reference/"):
        return markdown
    return "".join(part if fence else LINK.sub(page_of, spaced(part)) for part, fence in parts(markdown))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put the outputs of a lesson's cells into their places."""
    held = outputs.get(page.file.src_uri, [])
    return re.sub(r'<div class="outputs" id="outputs-(\d+)"></div>', lambda match: held[int(match[1])], html)


def parts(markdown: str) -> Iterator[tuple[str, bool]]:
    """The text between fenced blocks, and those blocks (True)."""
    for k, part in enumerate(re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)):
        yield part, k % 2 == 1


def spaced(markdown: str) -> str:
    """``markdown`` with the empty lines that Python-Markdown wants before lists and around displayed formulas."""
    markdown = re.sub(r"^(\$\$.*?\$\$)$", r"\n\1\n", markdown, flags=re.M | re.S)
    item = r"(?:[*+-]|\d+\.) "
    return re.sub(rf"^((?!\s|{item}|\||$).*\n)(?={item})", r"\1\n", markdown, flags=re.M)


def lesson(path: Path) -> str:
    """A lesson as Markdown, with places for its outputs."""
    uri, cells = f"notebooks/{path.stem}.md", nbformat.read(path, as_version=4).cells
    held, text = outputs.setdefault(uri, []), []
    held.clear()
    for cell in cells:
        if cell.cell_type == "markdown":
            text.append(cell.source)
        elif cell.cell_type == "code":
            text.append(f"```python\n{cell.source}\n```")
            if cell.outputs:
                text.append(f'<div class="outputs" id="outputs-{len(held)}"></div>')
                held.append(f'<div class="outputs">{"".join(map(shown, cell.outputs))}</div>')
    text[0] += f"\n\n[This lesson as a notebook]({path.name}){{ download }}"
    return "\n\n".join(text)


def shown(output: nbformat.NotebookNode) -> str:
    """One output as HTML. A plotly figure comes with its still picture, which stays where scripts do not run."""
    if output.output_type == "stream":
        return f"<pre>{escape(output.text)}</pre>"
    if output.output_type == "error":
        raise ValueError(f"a saved output is an error: {output.ename}: {output.evalue}. Run the lesson again: make notebooks")
    figure = output.data.get("application/vnd.plotly.v1+json")
    html = output.data.get("text/html") or picture(output) or f"<pre>{escape(output.data['text/plain'])}</pre>"
    if figure is None:
        return html
    data = json.dumps(figure).replace("<", "\\u003c")
    return f'<div class="plotly-figure">{html}</div><script type="application/json">{data}</script>'


def picture(output: nbformat.NotebookNode) -> str:
    """The image/png of an output with its alt text; "" where it has none."""
    if (data := output.data.get("image/png")) is None:
        return ""
    about = output.metadata.get("image/png", {})
    width = f' width="{about["width"]}"' if "width" in about else ""
    size = f'{width} style="max-width:100%;height:auto"'
    return f'<img alt="{escape(about.get("alt", ""))}"{size} src="data:image/png;base64,{"".join(data.split())}">'


def docstring(path: Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    return (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n\n")[0].replace("\n", " ")


def reference(name: str) -> str:
    """The page of a module of the core, or of a room with all its modules."""
    if name in CORE:
        return f"::: cmlab.{name}\n    options:\n      heading_level: 1\n"
    modules = sorted(path for path in (ROOT / "cmlab" / name).glob("*.py") if path.stem != "__init__")
    return "\n".join([f"# cmlab.{name}", "", f"::: cmlab.{name}", *(f"\n::: cmlab.{name}.{path.stem}" for path in modules)])


def contents() -> str:
    """The first page of the reference."""
    lines = ["# Reference", "", "The core, in the order of reading:", ""]
    lines += [f"{k}. [`cmlab.{name}`]({name}.md): {docstring(ROOT / f'cmlab/{name}.py')}" for k, name in enumerate(CORE, 1)]
    lines += ["", "The rooms around it:", ""]
    lines += [f"- [`cmlab.{name}`]({name}.md): {docstring(ROOT / f'cmlab/{name}/__init__.py')}" for name in ROOMS]
    return "\n".join(lines)


PLANE = """---
hide: [navigation, toc]
---

# The plane

Drag points, draw a distribution of your own, and watch exact paths, denoisers and trained models answer.
[The plane alone](exported/plane.html) fills the window; `cmlab plane --export plane.html` writes the same page for you to keep.

<iframe src="exported/plane.html" title="The plane: points to drag, exact paths, trained models" class="plane"></iframe>
"""
