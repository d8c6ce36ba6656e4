"""Pictures to tensors and back, for training, edits, evaluation and the app: one set of rules.

A picture is turned as its EXIF orientation says, and lies on white where it is transparent. Of several frames the first counts.
Pixels of 16 bits are scaled by their whole range. Palettes, CMYK and grey become RGB, or all becomes grey.
"""

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from ..base.files import user_path
from ..editing import luma
from . import sources

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Resize = Literal["openai", "edm"]
Rounding = Literal["trunc", "round"]
MAX_PIXELS = 2**26  # of one picture: larger ones are mistakes or attacks
# What is decoded. Pillow knows more, and hands some of it to other programs (EPS to Ghostscript).
FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "PPM", "TIFF", "JPEG2000", "TGA")
ROUNDINGS: dict[Rounding | None, Callable[[Tensor], Tensor]] = {
    None: lambda x: ((x + 1) * 127.5).round(),  # the nearest level, exact for images that were read from files
    "trunc": lambda x: (x + 1) * 127.5,  # OpenAI's scripts: the level below
    "round": lambda x: x * 127.5 + 128,  # EDM's: the nearest level
}


def to_pixels(x: Tensor, rounding: Rounding | None = None) -> Tensor:
    """Images in [-1, 1] as uint8 of the same shape, values outside cut off.

    ``rounding`` is for samples that are measured: "trunc" is OpenAI's and half a level darker than "round", EDM's.
    """
    return ROUNDINGS[rounding](x.detach().float()).clamp(0, 255).to(torch.uint8)


def from_pixels(pixels: Tensor) -> Tensor:
    """uint8 of any shape as float32 in [-1, 1]."""
    return pixels.float() / 127.5 - 1


def to_uint8(x: Tensor) -> np.ndarray:
    """Images (B, C, H, W) in [-1, 1] as uint8 (B, H, W, 3): rounded, values outside cut off, grey repeated over RGB."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"need images (B, 1 or 3, H, W), got {tuple(x.shape)}")
    return to_pixels(x).cpu().expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def from_uint8(image: np.ndarray, channels: int = 3) -> Tensor:
    """One picture (H, W, 3) uint8 as (1, channels, H, W) float32 in [-1, 1]; one channel takes the luma."""
    x = from_pixels(torch.from_numpy(np.ascontiguousarray(image[..., :3])).permute(2, 0, 1)[None].contiguous())
    return luma(x) if channels == 1 else x


def as_files(x: Tensor) -> Tensor:
    """Images (B, C, H, W) in [-1, 1] to the bits with which they would be read again from files of 8 bits."""
    return torch.cat([from_uint8(picture, x.shape[1]) for picture in to_uint8(x)])


def open_picture(data: bytes, name: str, channels: int = 3) -> "tuple[Picture, list[str]]":
    """An encoded picture as `flatten` makes it, and what had to be changed for a set or a model of ``channels``, in words.

    Raises a ValueError with its ``name`` for one that is broken or huge.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    if len(data) > sources.MAX_BYTES:
        raise ValueError(f"{name} has {len(data):,} bytes: more than a picture has")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError  # as Pillow does for more than 179 million
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a phone's MPO holds a preview of the same photo
        image.load()
        mode = image.mode
        ImageOps.exif_transpose(image, in_place=True)
        flat, transparent = flatten(image)
    except Image.DecompressionBombError as error:
        limit = f"{MAX_PIXELS // 10**6} million pixels"
        raise ValueError(f"{name} is too large a picture: choose one of at most {limit}.") from error
    except Exception as error:  # Pillow raises many kinds, SyntaxError among them
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({' '.join(str(error).split())})"
        raise ValueError(f"{name} is not a picture that can be read{reason}. Choose a PNG, JPEG, GIF or WebP file.") from error
    notes = [f"reduced to the first of its {frames} frames"] if frames > 1 else []
    if mode not in (("RGB",) if channels == 3 else ("L", "RGB")):
        white = ", on white where it is transparent" if transparent else ""
        notes.append(f"converted to {'RGB colours' if channels == 3 else 'shades of grey'}{white}")
    return flat, notes


def only_known_formats() -> None:
    """From now on Pillow opens only FORMATS and pictures of at most MAX_PIXELS, in all of this process.

    For a server: pictures that other code opens (gradio's own boxes) must not reach another program either.
    """
    from PIL import Image

    Image.init()  # all formats: it is not done again
    for name in set(Image.OPEN) - set(FORMATS) - {"MPO"}:
        del Image.OPEN[name]
        Image.ID.remove(name)
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow warns from here on, and refuses twice as many


def flatten(image: "Picture") -> "tuple[Picture, bool]":
    """A picture of any mode with 8 bits, grey or RGB, and whether it may be transparent: there it lies on white."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        image = _of_8_bits(image)
    if transparent := image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("L" if image.mode in ("1", "L") else "RGB"), transparent


def _of_8_bits(image: "Picture") -> "Picture":
    """Grey of 16 bits, of 32, or of floats, by the range that such files have; only where there is none by the picture's own."""
    from PIL import Image

    values = np.asarray(image, dtype=np.float32)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are not finite numbers")
    sixteen = image.mode.startswith("I;16") or image.format in ("PNG", "PPM")  # in older Pillows their 16 bits come as 32
    usual = (65535,) if sixteen else (1, 255, 65535) if image.mode == "F" else (255, 65535)
    low, high = min(0.0, float(values.min())), float(values.max())
    top = next((top for top in usual if high <= top), high)
    return Image.fromarray(np.rint((values - low) * (255 / (top - low))).astype(np.uint8))


def read_picture(path: str | Path, shape: Sequence[int]) -> tuple[Tensor, list[str]]:
    """An image file as (1, C, H, W) in [-1, 1] for a model of ``shape``, and what had to be changed, in words.

    Raises FileNotFoundError where there is none, and the ValueErrors of `open_picture`.
    """
    from PIL import Image, ImageOps

    channels, height, width = shape
    path = user_path(path, "file", what="picture")
    image, notes = open_picture(path.read_bytes(), path.name, channels)
    image = image.convert("RGB")
    if image.size != (width, height):
        cut = "" if image.width * height == image.height * width else f"cut to a {'square' if width == height else 'part'} and "
        notes.append(f"{cut}resized from {image.width} x {image.height} to {width} x {height} pixels")
        image = ImageOps.fit(image, (width, height), Image.Resampling.BOX)
    return from_uint8(np.array(image), channels), notes


def decode(
    data: bytes,
    name: str,
    channels: int = 3,
    resolution: int | None = None,
    resize: Resize = "openai",
    told: list[tuple[str, str]] | None = None,
) -> np.ndarray:
    """An encoded picture for training, uint8 (C, H, W); adds (``name``, what was changed) to ``told``.

    ``resize``, for a square of side ``resolution``: "openai" halves by a box filter, fits the short side bicubically and cuts out
    the middle; "edm" cuts out the middle square and fits it by Lanczos' filter. Raises the ValueErrors of `open_picture`.
    """
    image, notes = open_picture(data, name, channels)
    image = image.convert("RGB" if channels == 3 else "L")
    if told is not None:
        told += [(name, note) for note in notes]
    if resolution is not None:
        if max(image.size) * resolution**2 > MAX_PIXELS * min(image.size):
            raise ValueError(f"{name} is {image.width} x {image.height}, too long and thin for a square of {resolution}")
        image = RESIZE[resize](image, resolution)
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1) if channels == 3 else pixels[None])


def _middle(image, side: int):
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _box_bicubic(image, side: int):
    from PIL import Image

    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    return _middle(image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC), side)


def _square_lanczos(image, side: int):
    from PIL import Image

    return _middle(image, min(image.size)).resize((side, side), Image.Resampling.LANCZOS)


RESIZE = {"openai": _box_bicubic, "edm": _square_lanczos}
