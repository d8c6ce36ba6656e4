"""What to say of a name that is not known: the nearest that is."""

import difflib
from collections.abc import Collection


def check_choice(kind: str, name: str, known: Collection[str]) -> None:
    """Raise ValueError with all choices for a name that is not one of a few ``known``."""
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}: choose one of {', '.join(known)}")


def unknown(kind: str, name: str, known: Collection[str]) -> str:
    """The message for a name that is not in ``known``: the nearest one, or all of them where none is near."""
    near = difflib.get_close_matches(str(name), list(known), 1, 0.5)
    way = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(known) or '(none)'}"
    return f"unknown {kind} {name!r}: {way}"
