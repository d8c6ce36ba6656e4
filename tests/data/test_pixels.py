"""Pictures to tensors and back: the same pixels from one file for training and for edits, whatever its mode."""

import io
import logging

import numpy as np
import pytest
import torch
from PIL import Image

from cmlab.data import pictures
from cmlab.data.pictures import load_pictures
from cmlab.data.pixels import decode, from_pixels, read_picture, to_pixels, to_uint8


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CMLAB_CACHE", str(tmp_path / "cache"))
    pictures._tell.cache_clear()


COLOUR = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 11


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey.astype(np.uint8)[..., None], 3, 2)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def turned(kind: str) -> bytes:
    """COLOUR as a camera stores it that was held upright: a quarter turn back, and a note to undo it."""
    exif = Image.Exif()
    exif[274] = 6
    return encoded(Image.fromarray(np.rot90(COLOUR)), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))


def half_clear() -> bytes:
    alpha = np.where(np.arange(6) < 3, 0, 255).astype(np.uint8) * np.ones((4, 1), np.uint8)
    return encoded(Image.fromarray(np.dstack([COLOUR, alpha])))


def clear_palette() -> tuple[bytes, np.ndarray]:
    image = Image.fromarray(COLOUR).quantize(8)
    index, colours = np.asarray(image), np.asarray(image.convert("RGB"))
    return encoded(image, "GIF", transparency=int(index[0, 0])), np.where((index == index[0, 0])[..., None], 255, colours)


def moving() -> bytes:
    frames = [Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)


WHITE_LEFT = np.concatenate([np.full((4, 3, 3), 255, np.uint8), COLOUR[:, 3:]], 1)
DEEP = np.array([[0, 1, 128, 129], [256, 257, 5000, 65535]], np.uint16)  # 257 to a level of 8 bits
CMYK = Image.fromarray(COLOUR).convert("CMYK")
CASES = {
    "turned PNG": (turned("PNG"), COLOUR),
    "turned WebP": (turned("WEBP"), COLOUR),
    "transparent": (half_clear(), WHITE_LEFT),
    "transparent palette": clear_palette(),
    "grey with alpha": (encoded(Image.merge("LA", (Image.fromarray(GREY), Image.new("L", (6, 4), 255)))), rgb(GREY)),
    "16 bits": (encoded(Image.fromarray(DEEP)), rgb(np.array([[0, 0, 0, 1], [1, 1, 19, 255]]))),
    "a dim picture of 16 bits": (encoded(Image.fromarray(DEEP // 64)), rgb(np.array([[0, 0, 0, 0], [0, 0, 0, 4]]))),
    "16 bits, TIFF": (encoded(Image.fromarray(DEEP), "TIFF"), rgb(np.array([[0, 0, 0, 1], [1, 1, 19, 255]]))),
    "32 bits": (encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"), rgb(GREY)),
    "floats from 0 to 1": (encoded(Image.fromarray((GREY / 510).astype(np.float32)), "TIFF"), rgb(np.rint(GREY / 2))),
    "floats like bytes": (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), rgb(GREY)),
    "floats of no usual range": (
        encoded(Image.fromarray(np.array([[-1e5, 0, 1e5]], np.float32)), "TIFF"),
        rgb(np.array([[0, 128, 255]])),
    ),
    "two colours": (encoded(Image.fromarray(GREY > 99)), rgb(np.where(GREY > 99, 255, 0))),
    "CMYK": (encoded(CMYK, "TIFF"), np.asarray(CMYK.convert("RGB"))),
    "moving": (moving(), COLOUR),
}


@pytest.mark.parametrize("name", CASES)
def test_training_and_edits_read_the_same_pixels(name, tmp_path):
    data, expected = CASES[name]
    np.testing.assert_array_equal(decode(data, "x").transpose(1, 2, 0), expected)
    (tmp_path / "x").write_bytes(data)
    x, notes = read_picture(tmp_path / "x", (3, *expected.shape[:2]))
    np.testing.assert_array_equal(to_uint8(x)[0], expected)
    assert not [note for note in notes if "resized" in note]


def test_values_that_are_no_numbers_are_told():
    data = encoded(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF")
    with pytest.raises(ValueError, match=r"x is not a picture that can be read \(it holds values that are not finite numbers\)"):
        decode(data, "x")


def test_formats_that_other_programs_decode_are_refused():
    with pytest.raises(ValueError, match=r"x is not a picture that can be read\. Choose"):
        decode(encoded(Image.fromarray(COLOUR), "EPS"), "x")


def test_a_picture_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no picture at .*a\.png: check the path"):
        read_picture(tmp_path / "a.png", (3, 8, 8))


def test_every_level_comes_back_from_a_tensor():
    levels = torch.arange(256, dtype=torch.uint8)
    for rounding in (None, "round"):
        assert torch.equal(to_pixels(from_pixels(levels), rounding), levels)


@pytest.mark.parametrize("again", [False, True])
def test_what_is_left_out_or_changed_in_a_folder_is_told(tmp_path, caplog, again):
    root = tmp_path / "a"
    root.mkdir()
    plain = encoded(Image.fromarray(COLOUR))
    for name in ("b.jfif", "c.png"):
        (root / name).write_bytes(plain)
    for name in ("notes.txt", "d.raw", "e.heic", "readme", ".hidden"):
        (root / name).write_bytes(b"")
    (root / "clear.png").write_bytes(half_clear())
    (root / "moving.webp").write_bytes(moving())
    if again:  # from the cache
        load_pictures(root)
        pictures._tell.cache_clear()
        caplog.clear()
    with caplog.at_level(logging.WARNING):
        data = load_pictures(root)
    assert len(data) == 4
    assert [record.getMessage().removeprefix(f"{root}: ") for record in caplog.records] == [
        "left out 4 files whose names do not end as pictures do: d.raw, e.heic, notes.txt, ...",
        "1 of 4 pictures converted to RGB colours, on white where it is transparent: clear.png",
        "1 of 4 pictures reduced to the first of its frames: moving.webp",
    ]
