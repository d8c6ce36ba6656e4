"""Words for a person: numbers of things, tables, text from a file that anyone may have written."""

from collections.abc import Iterable, Sequence


def count(n: int, thing: str) -> str:
    """A number of things.

    >>> count(1, "step"), count(18, "step")
    ('1 step', '18 steps')
    """
    return f"{n} {thing}{'s' * (n != 1)}"


def levels(sigmas: Iterable[float]) -> str:
    """Noise levels, as --sigmas takes them.

    >>> levels([80.0, 0.8210001])
    '80 0.821'
    """
    return " ".join(f"{sigma:.5g}" for sigma in sigmas)


def printable(text: str, most: int = 2000) -> str:
    """At most so many characters of ``text``, with a "?" for every control character, which could write over other lines.

    >>> printable("no\\x1b[2J colours at all", 16)
    'no?[2J colour...'
    """
    return "".join(c if c.isprintable() else "?" for c in (text if len(text) <= most else f"{text[: most - 3]}..."))


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """The rows of ``table`` as lines for a terminal, every column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def markdown(table: Sequence[Sequence[str]], align: str = "---") -> list[str]:
    """The lines of a Markdown table whose heading is the first row; ``align`` is "---:" for columns of numbers."""
    cells = ([cell.replace("|", "\\|") for cell in row] for row in table)
    head, *rows = (f"| {' | '.join(row)} |" for row in cells)
    return [head, "|" + f"{align}|" * len(table[0]), *rows]
