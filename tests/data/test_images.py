"""Images from files: what is read, how it is labelled, cut and kept, and one clear line for whatever cannot be."""

import hashlib
import http.client
import io
import json
import os
import pickle
import struct
import tarfile
import urllib.error
import urllib.request
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import KnownDraws, seeded
from PIL import Image

from cmlab.data import ImageData, cifar10, digits, load_data, load_images, sources
from cmlab.data import pictures as images
from cmlab.data.pictures import load_pictures
from cmlab.data.pixels import RESIZE, decode
from cmlab.data.sets import LazyPixels, PixelData, random_index
from cmlab.noise import SampleDraws
from cmlab.training.presets import build_model, get_preset, training_data


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("CMLAB_CACHE", str(folder))
    return folder


def pixels(seed=0, h=6, w=6):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3), dtype=np.uint8)


def encoded(array=None, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(pixels() if array is None else array)
    image.save(file, kind, **options)
    return file.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def pack(path: Path, files: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, f"w:{path.suffix.strip('.').replace('tar', '')}") as archive:  # type: ignore[call-overload]
            for name, data in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return path


FILES = {f"{label}/{k}.png": encoded(pixels(10 * i + k)) for i, label in enumerate(("cat", "dog")) for k in range(3)}
EXPECTED = torch.tensor(np.stack([pixels(10 * i + k) for i in range(2) for k in range(3)])).permute(0, 3, 1, 2) / 127.5 - 1


# --- the sets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
@pytest.mark.parametrize("top", ["", "everything/", "deep/er/"])
def test_class_folders_however_they_are_packed(tmp_path, form, top):
    files = {top + name: data for name, data in FILES.items()} | {top + ".hidden/x.png": b"", top + "notes.txt": b"hello"}
    path = write(tmp_path / form, files) if form == "folder" else pack(tmp_path / form, files)
    data = load_data(str(path))
    assert isinstance(data, PixelData)
    assert (data.shape, len(data), data.classes, data.class_names) == ((3, 6, 6), 6, 2, ("cat", "dog"))
    assert data.label is not None
    assert data.label.tolist() == [0, 0, 0, 1, 1, 1]
    assert torch.equal(data.x0, EXPECTED)
    assert torch.equal(data.take(torch.tensor([4, 1])), EXPECTED[[4, 1]])


def test_batches_pair_pictures_with_their_labels_and_follow_their_seeds(tmp_path):
    data = load_data(write(tmp_path / "a", FILES))
    x0, label = data.batch(200, seeded(1))
    assert x0.dtype == torch.float32
    assert label is not None
    assert label.dtype == torch.int64
    nearest = torch.cdist(x0.flatten(1), EXPECTED.flatten(1)).argmin(1)
    assert torch.equal(nearest // 3, label)
    assert set(nearest.tolist()) == set(range(6))
    assert torch.equal(x0, EXPECTED[nearest])
    again, _ = data.batch(200, seeded(1))
    assert torch.equal(again, x0)
    assert torch.equal(data.batch(3, SampleDraws([1, 2, 3]))[0][1:2], data.batch(1, SampleDraws([2]))[0])


def test_indices_reach_every_picture_of_a_large_set_alike():
    # One uniform of 24 bits gives some of 3 x 2^22 pictures twice the chance of others: 2^24 / (3 x 2^22) = 4/3.
    count = 3 * 2**22
    u = torch.tensor([[0.5, 0.25], [0.0, 0.0], [1 - 2**-24, 1 - 2**-24]])
    assert random_index(count, 3, KnownDraws(uniforms=[u])).tolist() == [count // 2, 0, count - 1]
    fine = torch.stack([torch.full((4,), 0.5), torch.tensor([0.0, 0.3, 0.7, 0.99]) + 0], 1)
    assert random_index(2**26, 4, KnownDraws(uniforms=[fine])).tolist() == [2**25 + k for k in (0, 1, 2, 3)]


def test_linked_folders_are_read(tmp_path):
    write(tmp_path / "far/away", {name.removeprefix("cat/"): data for name, data in FILES.items() if name.startswith("cat")})
    write(tmp_path / "a", {name: data for name, data in FILES.items() if name.startswith("dog")})
    try:
        (tmp_path / "a/cat").symlink_to(tmp_path / "far/away")
    except OSError:
        pytest.skip("this system makes no links")
    (tmp_path / "far/away/up").symlink_to(tmp_path / "a")  # a circle
    assert torch.equal(load_images(tmp_path / "a").x0, EXPECTED)
    for lost, make in (("dead.png", lambda p: p.symlink_to("nothing")), ("pipe.png", os.mkfifo), ("dataset.json", os.mkfifo)):
        make(tmp_path / "a/cat" / lost)
        with pytest.raises(ValueError, match=f"{lost} is no file, or a link that leads nowhere: remove it"):
            load_images(tmp_path / "a")
        (tmp_path / "a/cat" / lost).unlink()


def test_labels_of_another_split_are_not_taken_for_none(tmp_path):
    files = {"train/a.png": encoded(), "test/b.png": encoded(), "dataset.json": b'{"labels": [["test/b.png", 1]]}'}
    root = write(tmp_path / "a", files)
    with pytest.raises(ValueError, match=r"no label for 1 of 1 pictures, first a\.png"):
        load_data(root)
    assert load_images(root, split="test").classes == 2


def test_a_flat_folder_has_no_labels(tmp_path):
    data = load_data(write(tmp_path / "a", {f"{k}.png": encoded(pixels(k)) for k in range(3)}))
    assert (data.classes, len(data.batch(4, seeded())[0])) == (0, 4)
    assert data.batch(4, seeded())[1] is None


def test_labels_from_prefixes_folders_or_nowhere(tmp_path):
    root = write(tmp_path / "a", {f"{c}/{p}_{k}.png": encoded(pixels(k)) for c in "xy" for p in ("b", "a") for k in range(2)})
    prefix = load_pictures(root, labels="prefix")
    assert prefix.class_names == ("a", "b")
    assert prefix.label is not None
    assert prefix.label.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert load_pictures(root, labels="folder").class_names == ("x", "y")
    assert load_pictures(root, labels="none").label is None


@pytest.mark.parametrize("form", ["folder", "a.zip"])
def test_edms_dataset_json(tmp_path, form):
    names = ["00000/img0.png", "00000/img1.png", "00001/img2.png"]
    files = {name: encoded(pixels(k)) for k, name in enumerate(names)}
    files["dataset.json"] = json.dumps({"labels": [[name, label] for name, label in zip(names, (2, 0, 2), strict=True)]}).encode()
    path = write(tmp_path / form, files) if form == "folder" else pack(tmp_path / form, files)
    data = load_pictures(path)
    assert data.label is not None
    assert (data.label.tolist(), data.class_names) == ([2, 0, 2], ("0", "1", "2"))
    assert load_pictures(path, labels="folder").class_names == ("00000", "00001")


def test_a_dataset_json_without_labels_means_none(tmp_path):
    root = write(tmp_path / "a", {"00000/a.png": encoded(), "00001/b.png": encoded(), "dataset.json": b'{"labels": null}'})
    assert load_pictures(root).label is None
    assert load_pictures(root, labels="folder").classes == 2


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_splits_are_top_folders(tmp_path, test_name):
    files = {f"train/{name}": data for name, data in FILES.items()}
    files |= {f"{test_name}/{c}/z.png": encoded(pixels(99)) for c in ("cat", "dog")}
    path = pack(tmp_path / "a.tar.xz", {f"top/{name}": data for name, data in files.items()})
    train, test = load_data(path), load_data(path, split="test")
    assert (len(train), len(test)) == (6, 2)  # type: ignore[arg-type]
    assert len(load_data(path, split="train")) == 6  # type: ignore[arg-type]
    assert train.class_names == test.class_names == ("cat", "dog")  # type: ignore[union-attr]


def test_classes_keep_their_numbers_in_a_split_that_lacks_some(tmp_path):
    files = {f"train/{name}": data for name, data in FILES.items()} | {"test/dog/z_1.png": encoded()}
    root = write(tmp_path / "a", files)
    test = load_images(root, split="test")
    assert test.label is not None
    assert (test.label.tolist(), test.class_names) == ([1], ("cat", "dog"))
    labels = {"labels": [["train/cat/0.png", 4], ["test/dog/z_1.png", 2]]}
    (root / "dataset.json").write_text(json.dumps(labels))
    assert load_images(root, split="test").classes == 5


def test_grey_pictures_and_palettes_become_rgb_or_all_becomes_grey(tmp_path):
    grey = np.arange(36, dtype=np.uint8).reshape(6, 6)
    palette = Image.fromarray(pixels(1)).quantize(16)
    files = {
        "a.png": encoded(grey),
        "b.gif": encoded(palette, "GIF"),
        "c.png": encoded(pixels(2)),
        "d.png": encoded(Image.fromarray(grey > 9)),
    }
    opaque = Image.fromarray(pixels(3)).convert("RGBA")
    data = load_pictures(write(tmp_path / "a", files | {"e.png": encoded(opaque)}))
    assert data.shape == (3, 6, 6)
    x0 = ((data.x0 + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    assert (x0[0] == grey[..., None]).all()
    assert (x0[1] == np.asarray(palette.convert("RGB"))).all()
    assert (x0[4] == pixels(3)).all()
    one = load_pictures(tmp_path / "a", channels=1)
    assert one.shape == (1, 6, 6)
    assert torch.equal(one.x0[0], data.x0[0, :1])


# --- sizes -----------------------------------------------------------------------------------------------------------------


def test_openais_rule_halves_by_boxes_then_fits_the_short_side_and_cuts_the_middle():
    picture = pixels(0, 40, 64)
    boxes = picture.reshape(20, 2, 32, 2, 3).mean((1, 3))
    out = decode(encoded(picture), "x", resolution=20)
    assert np.abs(out.transpose(1, 2, 0) - boxes[:, 6:26]).max() <= 1  # PIL rounds twice
    flat = np.full((30, 45, 3), 77, np.uint8)
    assert (decode(encoded(flat), "x", resolution=20) == 77).all()
    expected = Image.fromarray(pixels(5, 30, 45)).resize((30, 20), Image.Resampling.BICUBIC).crop((5, 0, 25, 20))
    assert (decode(encoded(pixels(5, 30, 45)), "x", resolution=20).transpose(1, 2, 0) == np.asarray(expected)).all()


def test_edms_rule_cuts_the_middle_square_first():
    picture = pixels(0, 40, 64)
    expected = Image.fromarray(picture[:, 12:52]).resize((20, 20), Image.Resampling.LANCZOS)
    assert (decode(encoded(picture), "x", resolution=20, resize="edm").transpose(1, 2, 0) == np.asarray(expected)).all()


def test_a_thread_of_a_picture_is_no_square():
    with pytest.raises(ValueError, match="x is 30000 x 1, too long and thin for a square of 64"):
        decode(encoded(np.zeros((1, 30000, 3), np.uint8)), "x", resolution=64)


@pytest.mark.parametrize("resize", RESIZE)
@pytest.mark.parametrize("size", [(6, 6), (7, 13), (3, 5), (50, 6)])
def test_any_size_comes_out_square_and_a_fitting_one_untouched(resize, size):
    out = decode(encoded(pixels(0, *size)), "x", resolution=6, resize=resize)
    assert out.shape == (3, 6, 6)
    assert size != (6, 6) or (out.transpose(1, 2, 0) == pixels(0)).all()


def test_mixed_sizes_need_a_resolution(tmp_path):
    root = write(tmp_path / "a", {"a.png": encoded(pixels(0, 6, 8)), "b.png": encoded(pixels(0, 9, 6))})
    with pytest.raises(ValueError, match=r"b.png is 6 x 9, a.png is 8 x 6: pass resolution= .*--resolution 32"):
        load_data(root)
    assert load_data(root, resolution=5).shape == (3, 5, 5)
    assert not torch.equal(load_images(root, resolution=5).x0, load_images(root, resolution=5, resize="edm").x0)


# --- keeping what is decoded -------------------------------------------------------------------------------------------------


def test_pictures_are_decoded_once_and_mapped(tmp_path, cache, monkeypatch):
    root = write(tmp_path / "a", FILES)
    first = load_pictures(root)
    assert isinstance(first.pixels, np.memmap)
    assert sorted(p.suffix for p in cache.iterdir()) == [".json", ".npy"]
    monkeypatch.setattr(images, "decode", lambda *_, **__: pytest.fail("decoded again"))
    again = load_pictures(root)
    assert torch.equal(again.x0, first.x0)
    assert again.label is not None
    assert (again.label.tolist(), again.class_names) == ([0, 0, 0, 1, 1, 1], ("cat", "dog"))
    assert torch.equal(load_pictures(root, cache=str(cache)).x0, first.x0)


def test_changed_pictures_and_other_options_are_decoded_anew(tmp_path, cache):
    root = write(tmp_path / "a", FILES)
    before = load_pictures(root)
    (root / "cat/0.png").write_bytes(encoded(pixels(77)))
    os.utime(root / "cat/0.png", (1, 1))
    assert not torch.equal(load_pictures(root).x0[0], before.x0[0])
    assert torch.equal(before.x0, EXPECTED)  # who still reads the old ones keeps them
    assert load_pictures(root, resolution=4).shape == (3, 4, 4)
    (root / "cat/9.png").write_bytes(encoded())
    assert len(load_pictures(root)) == 7
    assert len(list(cache.glob("*.npy"))) == 4


def test_a_broken_picture_leaves_nothing_behind(tmp_path, cache):
    root = write(tmp_path / "a", FILES | {"dog/9.png": encoded()[:60]})
    with pytest.raises(ValueError, match=r"dog/9.png is not a picture that can be read"):
        load_pictures(root)
    assert not cache.exists() or not list(cache.iterdir())


def test_a_run_killed_between_the_two_files_is_as_if_it_had_not_been(tmp_path, cache):
    root = write(tmp_path / "a", FILES)
    load_pictures(root)
    next(cache.glob("*.json")).unlink()
    next(cache.glob("*.npy")).write_bytes(b"half")
    assert torch.equal(load_pictures(root).x0, EXPECTED)


def test_without_a_cache_every_batch_is_decoded_from_the_files(tmp_path, cache):
    for path in (write(tmp_path / "a", FILES), pack(tmp_path / "a.zip", FILES)):
        data = load_pictures(path, cache=False)
        assert isinstance(data.pixels, LazyPixels)
        assert torch.equal(data.batch(9, seeded())[0], load_pictures(path).batch(9, seeded())[0])
    assert len(load_pictures(tmp_path / "a.zip", cache=False)) == 6
    with pytest.raises(ValueError, match=r"from start to end: unpack it"):
        load_pictures(pack(tmp_path / "a.tar", FILES), cache=False)


def test_a_cache_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="name another folder with CMLAB_CACHE"):
        load_pictures(write(tmp_path / "a", FILES), cache=tmp_path / "file")


# --- flips -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["files", "digits"])
def test_flipping_mirrors_half_and_changes_neither_choice_nor_labels(tmp_path, kind):
    name = write(tmp_path / "a", FILES) if kind == "files" else "digits"
    plain, flipped = load_images(name), load_images(name, flip=True)
    x0, label = plain.batch(400, seeded())
    y0, same = flipped.batch(400, seeded())
    assert label is not None
    assert same is not None
    assert torch.equal(label, same)
    kept = (x0 == y0).flatten(1).all(1)
    assert torch.equal(y0[~kept], x0[~kept].flip(3))
    assert kept.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert torch.equal(flipped.take(torch.arange(3)), plain.take(torch.arange(3)))
    assert torch.equal(flipped.batch(3, SampleDraws([1, 2, 3]))[0][1:2], flipped.batch(1, SampleDraws([2]))[0])
    assert torch.equal(plain.x0, load_images(name).x0)  # nothing was mirrored in place


def test_points_are_not_flipped():
    with pytest.raises(ValueError, match=r"'rings' holds points, not images: leave out flip"):
        load_data("rings", flip=True)


# --- npz -------------------------------------------------------------------------------------------------------------------


def test_npz_of_openais_sampler(tmp_path):
    array = np.stack([pixels(k) for k in range(4)])
    np.savez(tmp_path / "a.npz", array, np.array([1, 0, 3, 1]))
    np.savez(tmp_path / "b.npz", array)
    data = load_images(tmp_path / "a.npz")
    assert torch.equal(data.x0, torch.tensor(array).permute(0, 3, 1, 2) / 127.5 - 1)
    assert data.label is not None
    assert (data.label.tolist(), data.class_names) == ([1, 0, 3, 1], ("0", "1", "2", "3"))
    assert load_images(tmp_path / "b.npz").label is None


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, "and holds no array of that name"),
        ({"arr_0": np.zeros((2, 4, 4, 3))}, r"holds float64 \(2, 4, 4, 3\)"),
        ({"arr_0": np.zeros((2, 3, 4, 4), np.uint8)}, r"uint8 \(2, 3, 4, 4\)"),
        ({"arr_0": np.zeros((0, 4, 4, 3), np.uint8)}, "uint8"),
        ({"arr_0": np.zeros((2, 0, 4, 3), np.uint8)}, "uint8"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.zeros(3, int)}, "one class number per image"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.array([0, -1])}, "from 0 on, and is .* from -1 on"),
        ({"arr_0": np.zeros((2, 4, 4, 3), np.uint8), "arr_1": np.array([0, 10**9])}, "numbers a class 1000000000: count them"),
        ({"arr_0": np.array([None])}, "no npz of plain arrays"),
    ],
)
def test_other_npz_files_are_errors(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_data(tmp_path / "a.npz")


# --- what cannot be read -----------------------------------------------------------------------------------------------------


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no pictures"),
        ({"notes.txt": b"hello"}, "holds no pictures"),
        ({"a.png": b""}, "a.png is not a picture that can be read"),
        ({"a.png": b"hello"}, "a.png is not a picture that can be read"),
        ({"a.jpg": encoded(kind="JPEG")[:200]}, "a.jpg is not a picture that can be read"),
        ({"a.png": encoded()[:-30]}, "a.png is not a picture that can be read"),
        ({"a.png": png_header(10_000, 10_000)}, "a.png is too large a picture: choose one of at most 67 million pixels"),
        ({"a.png": png_header(100_000, 100_000)}, "a.png is too large a picture: choose one of at most 67 million pixels"),
        ({"a.png": encoded(), "dataset.json": b"{"}, "dataset.json should hold"),
        ({"a.png": encoded(), "dataset.json": b"{}"}, "dataset.json should hold"),
        ({"a.png": encoded(), "dataset.json": b"[" * 200_000}, "dataset.json should hold"),
        ({"a.png": encoded(), "dataset.json": b'{"labels": [3]}'}, "dataset.json should hold"),
        ({"a.png": encoded(), "dataset.json": b'{"labels": [["a.png", 0.5]]}'}, "one class number"),
        ({"a.png": encoded(), "dataset.json": b'{"labels": [["a.png", -1]]}'}, "one class number"),
        ({"a.png": encoded(), "dataset.json": b'{"labels": [["a.png", 1000000000]]}'}, "numbers a class 1000000000"),
        ({"a.png": encoded(), "b.png": encoded(), "dataset.json": b'{"labels": [["a.png", 1]]}'}, r"1 of 2 pictures, first b\.png"),
    ],
)
@pytest.mark.parametrize("form", ["folder", "a.zip", "a.tar"])
def test_what_cannot_be_read_is_one_clear_line(tmp_path, form, files, message, recwarn):
    path = tmp_path / form
    path.mkdir() if form == "folder" else None
    path = write(path, files) if form == "folder" else pack(path, files)
    with pytest.raises(ValueError, match=message) as error:
        load_data(path)
    assert "\n" not in str(error.value)


def test_zip_bombs_are_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(100_000))
    with pytest.raises(ValueError, match=r"a\.png in .* unpacks to 100,000 bytes: more than a picture has"):
        load_data(tmp_path / "a.zip")
    with pytest.raises(ValueError, match=r"a\.png has 100,000 bytes"):
        load_data(write(tmp_path / "a", {"a.png": bytes(100_000)}))
    monkeypatch.setattr(sources, "MAX_TAR_BYTES", 150)
    with pytest.raises(ValueError, match="unpacks to more than 150 bytes"):
        load_data(pack(tmp_path / "a.tar.xz", {"a.png": encoded(), "b.png": encoded()}))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz", "a.npz"])
@pytest.mark.parametrize("damage", ["empty", "50 bytes", "half", "flipped"])
def test_damaged_archives(tmp_path, name, damage):
    if name == "a.npz":
        np.savez_compressed(tmp_path / name, np.stack([pixels(k) for k in range(9)]))
    else:
        pack(tmp_path / name, {f"{k}.png": encoded(pixels(k, 40, 40)) for k in range(3)})
    whole = (tmp_path / name).read_bytes()
    half, middle = len(whole) // 2, slice(len(whole) // 3, len(whole) // 3 + 1500)
    flipped = whole[: middle.start] + bytes(255 - b for b in whole[middle]) + whole[middle.stop :]
    (tmp_path / name).write_bytes({"empty": b"", "50 bytes": whole[:50], "half": whole[:half], "flipped": flipped}[damage])
    with pytest.raises(ValueError, match=r"damaged|no npz|not a picture that can be read|cannot be unpacked"):
        load_data(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": "edm"}, "no effect without resolution"),
        ({"resize": "lanczos", "resolution": 4}, "unknown resize 'lanczos': choose one of openai, edm"),
        ({"resolution": 0}, "resolution must be at least 1"),
        ({"resolution": 9000}, "at most 8192, got 9000"),
        ({"labels": "name"}, "unknown labels 'name'"),
        ({"channels": 4}, "unknown channels 4: choose one of 1, 3"),
        ({"split": "valid"}, "unknown split 'valid': choose one of train, test"),
        ({"split": "test"}, "not split into folders train and test"),
        ({"labels": "prefix"}, "wants file names such as"),
    ],
)
def test_options_that_do_not_fit_are_errors(tmp_path, options, message):
    root = write(tmp_path / "a", FILES)
    with pytest.raises(ValueError, match=message):
        load_data(root, **options)


def test_labels_from_folders_want_every_picture_in_one(tmp_path):
    with pytest.raises(ValueError, match=r"loose\.png lies in none"):
        load_data(write(tmp_path / "a", FILES | {"loose.png": encoded()}), labels="folder")
    assert load_pictures(tmp_path / "a").label is None


@pytest.mark.parametrize("option", [{"resolution": 8}, {"split": "test"}, {"labels": "none"}, {"cache": False}, {"channels": 1}])
def test_built_in_sets_and_npz_files_refuse_options_of_picture_files(tmp_path, option):
    np.savez(tmp_path / "a.npz", np.zeros((2, 4, 4, 3), np.uint8))
    for name in ("digits", tmp_path / "a.npz"):
        with pytest.raises(ValueError, match=f"has no use for {next(iter(option))}"):
            load_data(name, **option)


def test_unknown_names_and_files_say_what_there_is(tmp_path):
    with pytest.raises(ValueError, match=r"did you mean 'digits'\? \(nor is there a file or folder"):
        load_data("digit")
    with pytest.raises(ValueError, match=r"'@-3' says no form of pictures: digits@64 fits"):
        load_data("digits@-3")
    with pytest.raises(ValueError, match=r"unknown data set ''"):
        load_data("")
    with pytest.raises(ValueError, match=r"8gaussians.*cifar10.*lsun-cat \(nor is there a file"):
        load_data("qqqqqq")
    for nowhere in (str(tmp_path / "nowhere"), "~/no/faces", "faces.zip", "nowhere/faces@32"):
        with pytest.raises(
            ValueError, match=r"no file or folder at [^~]*: check the path, or name a data set \('cmlab info' lists them\)$"
        ):
            load_data(nowhere)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.txt is no data set: name a folder of pictures"):
        load_data(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="'rings' holds points"):
        load_images("rings")


def test_digits_take_what_they_are_asked_for():
    data = digits()
    assert isinstance(data, ImageData)
    assert len(data) == 1797
    assert torch.equal(data.take(torch.tensor([5, 3])), data.x0[[5, 3]])


# --- lmdb ------------------------------------------------------------------------------------------------------------------


def test_lsuns_lmdb(tmp_path):
    lmdb = pytest.importorskip("lmdb", reason="needs the optional package lmdb")
    with lmdb.open(str(tmp_path / "bedroom_train_lmdb"), map_size=2**20) as env, env.begin(write=True) as transaction:
        for k in range(4):
            transaction.put(hashlib.sha1(bytes([k])).hexdigest().encode(), encoded(pixels(k, 8, 10), "WEBP", lossless=True))
    order = sorted(range(4), key=lambda k: hashlib.sha1(bytes([k])).hexdigest())
    for cache in (None, False):
        data = load_images(tmp_path / "bedroom_train_lmdb", resolution=8, cache=cache)
        assert (len(data), data.shape, data.label) == (4, (3, 8, 8), None)
        expected = np.stack([pixels(k, 8, 10)[:, 1:9] for k in order])
        assert torch.equal(data.x0, torch.tensor(expected).permute(0, 3, 1, 2) / 127.5 - 1)


def test_a_damaged_lmdb(tmp_path):
    pytest.importorskip("lmdb", reason="needs the optional package lmdb")
    with pytest.raises(ValueError, match="no lmdb, or a damaged one"):
        load_data(write(tmp_path / "a", {"data.mdb": b"hello"}))


def test_an_lmdb_without_the_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lmdb", None)
    with pytest.raises(ImportError, match="pip install lmdb"):
        load_data(write(tmp_path / "a", {"data.mdb": b""}))


# --- CIFAR-10 --------------------------------------------------------------------------------------------------------------

NAMES = [b"airplane", b"bird"]


def batch(k: int, labels=(0, 1, 1)) -> dict:
    data = np.random.default_rng(k).integers(0, 256, (len(labels), 3072), dtype=np.uint8)
    return {b"batch_label": b"batch", b"labels": list(labels), b"data": data, b"filenames": [b"x.png"] * len(labels)}


def cifar_files(**changes) -> dict[str, bytes]:
    content = {f"data_batch_{k}": batch(k) for k in range(1, 6)} | {"test_batch": batch(9), "batches.meta": {b"label_names": NAMES}}
    return {f"cifar-10-batches-py/{name}": pickle.dumps(value, 3) for name, value in (content | changes).items()}


def archive(folder: Path, monkeypatch, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    path = pack(folder / "cifar-10-python.tar.gz", files)
    monkeypatch.setattr(cifar10, "MD5", hashlib.md5(path.read_bytes()).hexdigest())
    return path


@pytest.mark.parametrize("form", ["archive", "folder", "folder of archive", "folder of folder", "by name"])
def test_cifar10_in_all_its_places(tmp_path, monkeypatch, form):
    root = tmp_path / "data"
    if "archive" in form or form == "by name":
        path = archive(root, monkeypatch, cifar_files())
        path = path if form == "archive" else root
    else:
        write(root, cifar_files())
        path = root / "cifar-10-batches-py" if form == "folder" else root
    if form == "by name":
        monkeypatch.setenv("CMLAB_DATA", str(root))
        path = "cifar10"
    train, test = load_images(path), load_images(path, split="test")
    assert (train.shape, len(train), len(test), train.class_names) == ((3, 32, 32), 15, 3, ("airplane", "bird"))
    assert train.label is not None
    assert train.label.tolist() == [0, 1, 1] * 5
    expected = torch.tensor(np.concatenate([batch(k)[b"data"] for k in range(1, 6)])).view(-1, 3, 32, 32) / 127.5 - 1
    assert torch.equal(train.x0, expected)
    assert load_images(path, flip=True).flip
    with pytest.raises(ValueError, match="has no use for resolution"):
        load_data(path, resolution=16)


def test_cifar10_pickled_by_python_2():
    # Protocol 2 as Python 2 wrote it: byte strings, numpy.core.multiarray._reconstruct, an "u1" dtype with its own state.
    raw = bytes(range(256)) * 12
    text = (
        b"\x80\x02}q\x00(U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85U\x01b\x87Rq\x04"
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nq\x05U\x02u1K\x00K\x01\x87Rq\x06(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
        b"b\x89T" + struct.pack("<i", len(raw)) + raw + b"tbU\x06labelsq\x07]q\x08K\x07au."
    )
    content = cifar10._literal(text, "x")
    assert content[b"labels"] == [7]
    assert (content[b"data"].array() == np.frombuffer(raw, np.uint8)[None]).all()


class Evil:
    def __init__(self, call, *args):
        self.call, self.args = call, args

    def __reduce__(self):
        return self.call, self.args


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_are_not_executed(tmp_path, monkeypatch, protocol):
    files = cifar_files()
    files["cifar-10-batches-py/data_batch_2"] = pickle.dumps({"data": Evil(os.mkdir, str(tmp_path / "executed"))}, protocol)
    with pytest.raises(ValueError, match=r"data_batch_2 of .* damaged or not CIFAR-10's: it asks for (posix|nt)\.mkdir"):
        load_data(archive(tmp_path / "a", monkeypatch, files))
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("call", [np.load, np.fromfile, eval, getattr, np.frombuffer])
def test_of_numpy_nothing_but_arrays_is_let_through(tmp_path, monkeypatch, call):
    files = cifar_files(test_batch=Evil(call, "x"))
    with pytest.raises(ValueError, match="it asks for"):
        load_data(archive(tmp_path / "a", monkeypatch, files), split="test")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_batch_3": {b"data": batch(1)[b"data"]}}, "does not hold CIFAR-10's python version: KeyError"),
        ({"data_batch_3": {b"data": 3, b"labels": []}}, "does not hold CIFAR-10's"),
        ({"data_batch_3": {b"data": np.zeros((2, 3072)), b"labels": [0, 0]}}, "uint8 in C order"),
        ({"data_batch_3": {b"data": np.zeros((2, 3000), np.uint8), b"labels": [0, 0]}}, "does not hold CIFAR-10's"),
        ({"data_batch_3": batch(1) | {b"labels": [0, 1]}}, "15 images, 14 labels"),
        ({"data_batch_3": batch(1, (0, 1, 2))}, "does not pair every image with a class"),
        ({"data_batch_3": [1]}, "should hold a dict, and holds a list"),
        ({"batches.meta": {}}, "KeyError"),
    ],
)
def test_other_content_under_cifars_names_is_an_error(tmp_path, monkeypatch, changes, message):
    with pytest.raises(ValueError, match=message):
        load_data(archive(tmp_path / "a", monkeypatch, cifar_files(**changes)))


def test_a_damaged_archive_is_told_by_its_md5(tmp_path, monkeypatch):
    path = archive(tmp_path / "a", monkeypatch, cifar_files())
    monkeypatch.setattr(cifar10, "MD5", "0" * 32)
    with pytest.raises(ValueError, match=r"has the md5 .*, the official cifar-10-python\.tar\.gz 0{32}: fetch it again"):
        load_data(path)


@pytest.mark.parametrize("lost", ["data_batch_4", "test_batch"])
def test_a_lost_batch_is_named(tmp_path, monkeypatch, lost):
    files = cifar_files()
    del files[f"cifar-10-batches-py/{lost}"]
    for path in (archive(tmp_path / "a", monkeypatch, files), write(tmp_path / "b", files)):
        with pytest.raises(ValueError, match=lost):
            load_data(path, split="test" if lost == "test_batch" else "train")


def test_absent_cifar10_says_what_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: pytest.fail("fetched without being asked"))
    monkeypatch.setenv("CMLAB_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError) as error:
        load_data("cifar10")
    for part in (f"not in {tmp_path}", "put cifar-10-python.tar.gz", cifar10.URL, "download_cifar10", "CMLAB_DATA"):
        assert part in str(error.value)
    with pytest.raises(ValueError, match="unknown split 'val': choose one of train, test"):
        load_data("cifar10", split="val")  # type: ignore[arg-type]


def test_downloads_are_checked_before_they_take_the_name(tmp_path, monkeypatch):
    source = archive(tmp_path / "a", monkeypatch, cifar_files())
    asked = {}

    def fetch(url, **options):
        asked.update(options, url=url)
        return source.open("rb")

    monkeypatch.setattr(urllib.request, "urlopen", fetch)
    assert len(load_images(cifar10.download_cifar10(tmp_path / "b"))) == 15
    assert asked["url"] == cifar10.URL
    assert asked["timeout"] > 0
    monkeypatch.setattr(cifar10, "MD5", "0" * 32)
    with pytest.raises(ValueError, match="has the md5"):
        cifar10.download_cifar10(tmp_path / "c")


class Broken(io.BytesIO):
    def read(self, *_):
        raise http.client.IncompleteRead(b"half")


@pytest.mark.parametrize("fault", [urllib.error.URLError("no route to host"), TimeoutError("timed out"), Broken(b"")])
def test_a_download_that_fails_says_what_to_put_where(tmp_path, monkeypatch, fault):
    def fetch(*_, **__):
        if isinstance(fault, OSError):
            raise fault
        return fault

    monkeypatch.setattr(urllib.request, "urlopen", fetch)
    with pytest.raises(OSError, match="could not be fetched") as error:
        cifar10.download_cifar10(tmp_path)
    for part in (cifar10.URL, f"put it in {tmp_path}", "cifar-10-python.tar.gz", "CMLAB_DATA"):
        assert part in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_pictures_become_grey_by_the_name_of_their_set_and_by_a_preset(tmp_path):
    for k, colour in enumerate(("red", "white", "black")):
        Image.new("RGB", (8, 6), colour).save(tmp_path / f"{k}.png")
    named = load_data(f"{tmp_path}@4grey")
    assert named.shape == (1, 4, 4) and isinstance(named, PixelData)
    assert np.asarray(named.pixels)[:, 0, 0, 0].tolist() == [76, 255, 0]  # the luma of red
    assert load_data(f"{tmp_path}@grey").shape == (1, 6, 8)
    preset = replace(get_preset("digits-edm"), data=str(tmp_path), resolution=4, channels=1, labels=False)
    assert preset.data_name == f"{tmp_path}@4grey" and build_model(preset).shape == (1, 4, 4)
    assert torch.equal(training_data(preset).batch(3, [0, 1, 2])[0], load_data(preset.data_name).batch(3, [0, 1, 2])[0])
    with pytest.raises(ValueError, match="says the channels 1: leave out channels=3"):
        load_data(f"{tmp_path}@grey", channels=3)
    with pytest.raises(ValueError, match="has no use for channels"):
        load_data("digits", channels=1)
