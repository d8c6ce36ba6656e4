"""``cmlab plane``: the plane as one page of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..base.files import new_file, user_path, write_whole
from ..base.registry import DATASETS


@dataclass(frozen=True)
class PlaneOptions:
    """Write a page that shows distributions in the plane, exact paths and trained models. It opens from a disk, without a server.

    Args:
        export: the page to write, .html.
        models: checkpoints in the plane to hold, by name or path; by default all bundled ones.
        data: the set that it shows first.
        open: open it in a browser, too.
        overwrite: replace the page if it is there.
    """

    lists: ClassVar = ((DATASETS, "toy"),)
    export: Path = Path("plane.html")
    models: tuple[str, ...] = ()
    data: str = "two-moons"
    open: bool = False
    overwrite: bool = False


def plane(o: PlaneOptions) -> None:
    """Write the page; raises ValueError for what is there already, and for models that are not in the plane."""
    if o.export.suffix not in (".html", ".htm"):
        raise ValueError(f"--export must end in .html, got {o.export}")
    path = new_file(user_path(o.export), o.overwrite, "--export")
    from ..app.browser import page
    from ..data import load_toy

    load_toy(o.data)
    text = page(o.models or None, set=o.data, play=True).encode()
    print(f"{write_whole(path, text)}: {len(text) / 1e6:.1f} MB, opens in any browser")
    if o.open:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
