"""Sets of pictures that are looked for under their name, as a folder or a zip: ImageNet and LSUN."""

from pathlib import Path
from typing import Any

from ..base.registry import DATASETS
from .pictures import data_folder, load_pictures
from .sets import PixelData


def named_folder(name: str, **options: Any) -> PixelData:
    """The pictures of the set ``name``, from here or from `data_folder`, by default at the resolution that its record says.

    Takes the options of `load_pictures`. Raises FileNotFoundError with the way out where they are absent.
    """
    record = DATASETS.record(name)
    here, folder, archive = Path(name), data_folder() / name, data_folder() / f"{name}.zip"
    for place in (here, folder, archive):
        if place.exists():
            return load_pictures(place, **{"resolution": record.facts["shape"][-1], **options})
    way = f"put {record.help} there, name another folder with CMLAB_DATA, or give --data PATH"
    raise FileNotFoundError(f"the data set {name} is neither {folder} nor {archive}: {way}")


@DATASETS.register(
    "imagenet64", help="a folder or zip of ImageNet's training pictures, one folder per class", kind="folder", shape=(3, 64, 64)
)
def imagenet64(**options: Any) -> PixelData:
    """ImageNet at 64 x 64 pixels."""
    return named_folder("imagenet64", **options)


@DATASETS.register(
    "lsun-bedroom", help="LSUN's lmdb folder, or a folder or zip of its pictures", kind="folder", shape=(3, 256, 256)
)
def lsun_bedroom(**options: Any) -> PixelData:
    """LSUN's bedrooms at 256 x 256 pixels."""
    return named_folder("lsun-bedroom", **options)


@DATASETS.register("lsun-cat", help="LSUN's lmdb folder, or a folder or zip of its pictures", kind="folder", shape=(3, 256, 256))
def lsun_cat(**options: Any) -> PixelData:
    """LSUN's cats at 256 x 256 pixels."""
    return named_folder("lsun-cat", **options)
