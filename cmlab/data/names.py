"""How data sets are called: with the classes that are kept, with a size of pictures, and what a card says of them."""

import re
from pathlib import Path
from typing import Any

from ..base.files import user_path
from ..base.registry import DATASETS


def fact(name: str, key: str, default: Any) -> Any:
    """What the record of the data set ``name`` says under ``key``; ``default`` where it says nothing, or where there is none."""
    return DATASETS.record(name).facts.get(key, default) if name in DATASETS else default


def split_name(name: str | Path) -> tuple[str, tuple[str, ...] | None]:
    """A data set's name without the classes behind its last colon, and those: None where all are kept.

    >>> split_name("cifar10:ship,horse"), split_name("digits")
    (('cifar10', ('ship', 'horse')), ('digits', None))
    """
    whole, colon, words = str(name).rpartition(":")
    if not colon or "/" in words or "\\" in words or user_path(name).exists():  # a path may hold colons of its own
        return str(name), None
    return whole, tuple(words.split(","))


def split_format(name: str | Path) -> tuple[str, int | None, int | None]:
    """A data set's name without what stands behind its last @, and that: side and channels of its pictures, None for their own.

    >>> split_format("faces.zip@64"), split_format("faces@32grey"), split_format("faces@grey"), split_format("digits")
    (('faces.zip', 64, None), ('faces', 32, 1), ('faces', None, 1), ('digits', None, None))
    """
    match = re.fullmatch(r"(.+)@(?=.)(\d*)(grey)?", str(name))
    if not match or user_path(name).exists():
        return str(name), None, None
    return match[1], int(match[2]) if match[2] else None, 1 if match[3] else None


def sized(name: str, resolution: int, channels: int | None = None) -> str:
    """The name of the set ``name`` at ``resolution`` and with 1 channel, for `load_data`; 0 and None are the set as it is.

    >>> sized("faces", 64), sized("faces:cat,dog", 64, 1), sized("imagenet64", 64), sized("digits", 0)
    ('faces@64', 'faces@64grey:cat,dog', 'imagenet64', 'digits')
    """
    whole, kept = split_name(name)
    bare, side, known = split_format(whole)
    resolution = 0 if fact(bare, "shape", (0,))[-1] == resolution else resolution
    channels = known or channels
    end = f"{resolution or side or ''}{'grey' * (channels == 1)}"
    if end == f"{side or ''}{'grey' * (known == 1)}":
        return name
    return f"{bare}@{end}" + ("" if kept is None else f":{','.join(kept)}")


def class_names_of(about: dict[str, Any], classes: int, data: str | Path) -> tuple[str, ...]:
    """Names of the ``classes`` of a model of the set ``data``, as its header ``about`` tells them; numbers where nothing does.

    >>> class_names_of({}, 2, "cifar10:ship,horse"), class_names_of({}, 2, "faces")
    (('ship', 'horse'), ('0', '1'))
    """
    origin, kept = split_name(data)
    names = tuple(str(name) for name in about.get("class_names") or kept or fact(origin, "class_names", ()))
    return names if len(set(names)) == classes else tuple(str(k) for k in range(classes))


def title_of(name: str | Path) -> str:
    """What a model card calls the set ``name``: "CIFAR-10: ship, horse". A record's function ``title`` may tell more."""
    whole, kept = split_name(name)
    titled = fact(whole, "title", None)
    title = titled() if titled else DATASETS.record(whole).label if whole in DATASETS else whole
    return title if kept is None else f"{title}: {', '.join(kept)}"
