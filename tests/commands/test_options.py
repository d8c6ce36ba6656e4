"""Every option of every command changes what the command is told: none is read and forgotten."""

from dataclasses import MISSING, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest

from cmlab.commands import main
from cmlab.commands.options import parse

COMMANDS = [main.options_of(main.command_of(name)) for name in main.COMMANDS if name != "train"]


def bare(hint: Any) -> Any:
    """The type that an option's text is read as: without Annotated and "or None"."""
    if get_origin(hint) is Annotated:
        names = [a.constructor_factory() for a in get_args(hint)[1:] if getattr(a, "constructor_factory", None)]  # of `one_of`
        return bare(names[0] if names else get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return bare(next(a for a in get_args(hint) if a is not NoneType))
    return hint


def positional(hint: Any) -> bool:
    return get_origin(hint) is Annotated and any("Positional" in repr(a) for a in get_args(hint)[1:])


def other(kind: Any, value: Any) -> tuple[list[str], Any]:
    """Words for a legal value of ``kind`` that is not ``value``, and that value."""
    if get_origin(kind) is Literal:
        choice = next(c for c in get_args(kind) if c != value)
        return [str(choice)], choice
    if get_origin(kind) is tuple:
        inner = bare(get_args(kind)[0])
        words, one = other(inner, None)
        return words * 2, (one, one)
    if kind is int:
        new = 7 if value is None else value + 1
    elif kind is float:
        new = 0.625 if value is None else value + 0.5
    elif str(value).isdecimal():  # a number that the environment may say: a port
        new = kind(int(value) + 1)
    else:
        first, second = kind("else:where.png"), kind("the:re.png")  # with colons, as a name and a password
        new = first if value != first else second
    return [str(new)], new


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.__name__)
def test_every_option_changes_the_resolved_command(command):
    hints = get_type_hints(command, include_extras=True)
    must = [f.name for f in fields(command) if f.default is MISSING and f.default_factory is MISSING]
    base = [other(bare(hints[name]), None)[0][0] for name in must]
    default = parse(command, base, "cmlab")
    for field in fields(command):
        kind, value, option = bare(hints[field.name]), getattr(default, field.name), "--" + field.name.replace("_", "-")
        words, new = ([], not value) if kind is bool else other(kind, value)
        if field.name in must:
            place = must.index(field.name)
            line = [*base[:place], *words, *base[place + 1 :]]
        elif positional(hints[field.name]):
            line = [*base, *words]
        else:
            line = [*base, f"--no-{option[2:]}" if kind is bool and value else option, *words]
        got = getattr(parse(command, line, "cmlab"), field.name)
        assert got == new != value, option
        assert not isinstance(new, Path) or isinstance(got, Path)
