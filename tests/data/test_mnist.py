"""MNIST and Fashion-MNIST by name: where their files may lie, and one line for whatever can be wrong with them."""

import gzip
import hashlib
import http.server
import struct
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from cmlab.data import DATASETS, EXAMPLES, load_data, load_images, mnist
from cmlab.data.mnist import FILES
from cmlab.data.pixels import to_pixels
from cmlab.data.scikit_digits import inks

NAMES = ("mnist", "fashion-mnist")


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 28, 28), dtype=np.uint8)


CONTENT = {name: array for seed, (part, n) in enumerate((("train", 5), ("test", 3))) for name, array in zip(
    FILES[part], (images(n, seed), np.arange(n) * 2), strict=True)}  # fmt: skip
TRAIN, LABELS = FILES["train"]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CMLAB_DATA", str(tmp_path))
    return tmp_path


def write(folder: Path, packed: bool = False, **changes: bytes | None) -> None:
    folder.mkdir(exist_ok=True)
    for name, array in CONTENT.items():
        data = changes.get(name.split("-idx")[0].replace("-", "_"), idx(array))
        if data is not None:
            (folder / f"{name}{'.gz' * packed}").write_bytes(gzip.compress(data) if packed else data)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_the_four_files_in_all_their_places(folder, name, packed, own):
    write(folder / name if own else folder, packed)
    train, test = load_images(name), load_images(name, split="test")
    assert (train.shape, len(train), len(test), train.classes) == ((1, 28, 28), 5, 3, 10)
    assert torch.equal(train.x0, torch.from_numpy(CONTENT[TRAIN])[:, None] / 127.5 - 1)
    assert train.label is not None and train.label.dtype == torch.int64 and train.label.tolist() == [0, 2, 4, 6, 8]
    assert train.class_names == DATASETS.record(name).facts["class_names"]
    assert load_images(f"{name}:{train.class_names[4]}").label.tolist() == [0]  # type: ignore[union-attr]
    for options in ({"resolution": 14}, {"labels": "none"}):
        with pytest.raises(ValueError, match=f"'{name}' has no use for {next(iter(options))}"):
            load_data(name, **options)  # type: ignore[arg-type]


def test_in_colour_ink_and_paper_are_where_they_were(folder):
    write(folder)
    train, test = load_images("mnist-color"), load_images("mnist-color", split="test")
    assert (train.shape, len(train), len(test), train.classes) == ((3, 28, 28), 5, 3, 10)
    assert train.label is not None and train.label.tolist() == [0, 2, 4, 6, 8]
    ink, paper = inks(5)
    shade = torch.from_numpy(CONTENT[TRAIN])[:, None] / 255
    torch.testing.assert_close((train.x0 + 1) / 2, shade * ink + (1 - shade) * paper, atol=0.51 / 255, rtol=0)
    assert not torch.equal(ink[:3], inks(3, seed=1)[0]) and torch.equal(load_images("mnist-color").x0, train.x0)


def test_class_names():
    assert DATASETS.record("mnist").facts["class_names"] == tuple("0123456789")
    assert DATASETS.record("fashion-mnist").facts["class_names"][::9] == ("T-shirt/top", "Ankle boot")


def test_files_that_change_are_read_anew(folder):
    write(folder)
    assert len(load_images("mnist")) == 5
    write(folder, train_images=idx(images(2)), train_labels=idx(np.array([9, 8])))
    assert load_images("mnist").label.tolist() == [9, 8]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": idx(images(5))[:-1]}, r"{images} should hold 3,920 values, and is cut short: fetch it again"),
        ({"train_images": idx(images(5))[:9]}, r"{images} should hold .* values, and is cut short: fetch it again"),
        ({"train_images": idx(images(5)) + b"x"}, r"{images} should hold 3,920 values, and is longer: fetch it again"),
        ({"train_images": b""}, r"{images} is no IDX file of bytes, it begins with nothing: fetch it again"),
        ({"train_images": b"\0\0\x0d\3" + bytes(20)}, r"{images} is no IDX file of bytes, it begins with 00 00 0d 03: fetch"),
        ({"train_images": idx(np.zeros((5, 28)))}, r"{images} holds an array of 2 dimensions, not images"),
        (
            {"train_images": idx(np.arange(5)), "train_labels": idx(images(5))},
            r"{images} holds labels, not images: are the files swapped\?",
        ),
        ({"train_labels": idx(images(5))}, r"{labels} holds images, not labels: are the files swapped\?"),
        ({"train_images": idx(np.zeros((5, 8, 9)))}, r"{images} holds images of 9 x 8, not 28 x 28"),
        ({"train_labels": idx(np.arange(4))}, r"{images} holds 5 images and .*{labels} 4 labels: fetch both again"),
        ({"train_labels": idx(np.array([0, 1, 2, 3, 10]))}, r"{labels} holds the label 10, and mnist has classes 0 to 9"),
        ({"train_images": b"\0\0\x08\3" + b"\xff" * 12 + bytes(99)}, r"{images} should hold .* values, and is cut short"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_each_fault_has_a_message_of_its_own(folder, changes, message, packed):
    write(folder, packed, **changes)
    with pytest.raises(ValueError, match=message.format(images=TRAIN + r"(\.gz)?", labels=LABELS + r"(\.gz)?")) as error:
        load_data("mnist")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", [lambda data: data[:40], lambda data: b"hello", lambda data: data[:60] + bytes(20) + data[80:]])
def test_a_damaged_gz_file(folder, damage):
    write(folder, packed=True)
    path = folder / f"{TRAIN}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{TRAIN}\.gz is damaged \(.*\): fetch it again"):
        load_data("mnist")


@pytest.mark.parametrize("lost", CONTENT)
def test_a_missing_file_is_named_with_the_way_out(folder, lost):
    write(folder)
    (folder / lost).unlink()
    with pytest.raises(
        FileNotFoundError, match=f"MNIST has no {lost}, plain or .gz, in {folder / 'mnist'} or {folder}: put the four"
    ):
        load_data("mnist", split="train" if lost in FILES["train"] else "test")
    with pytest.raises(ValueError, match="unknown split 'val': choose one of train, test"):
        load_data("mnist", split="val")  # type: ignore[arg-type]


def test_mnists_own_files_are_not_taken_for_clothes(folder, monkeypatch):
    write(folder)
    monkeypatch.setattr(mnist, "MNIST_PIXELS", (hashlib.md5(CONTENT[TRAIN].tobytes()).hexdigest(),))
    assert len(load_images("mnist")) == 5
    with pytest.raises(
        ValueError, match=f"{TRAIN} holds MNIST's digits: put fashion-mnist's own files in {folder / 'fashion-mnist'}"
    ):
        load_data("fashion-mnist")


def test_examples_ship_at_least_two_of_each_digit():
    data = load_images("mnist-examples")
    assert data.shape == (1, 28, 28) and len(data) == 24 and data.class_names == tuple("0123456789")
    assert torch.bincount(torch.as_tensor(data.label)).tolist() == [3, 3, 3, 3, 2, 2, 2, 2, 2, 2]
    files = sorted((EXAMPLES / "mnist").rglob("*.png"))
    assert len({file.read_bytes() for file in files}) == 24 and sum(file.stat().st_size for file in files) < 10_000
    digest = hashlib.sha256(to_pixels(data.x0).numpy().tobytes()).hexdigest()
    assert digest.startswith("155c0ece11627813")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a server of ``tmp_path``."""
    monkeypatch.setenv("no_proxy", "*")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_fetched_with_checksums(tmp_path, monkeypatch, server, name):
    datasets = pytest.importorskip("torchvision.datasets")
    there, here = tmp_path / "mirror", tmp_path / "here"
    there.mkdir()
    write(there, packed=True)
    monkeypatch.setenv("CMLAB_DATA", str(here))
    kind = getattr(datasets, mnist.TORCHVISION[name])
    packed = [(path.name, hashlib.md5(path.read_bytes()).hexdigest()) for path in there.iterdir()]
    monkeypatch.setattr(kind, "resources", packed)
    monkeypatch.setattr(kind, "mirrors", [f"{server}/gone/"])
    with pytest.raises(OSError, match=f"put its four official files .* in {here / name}, plain or .gz"):
        mnist.download(name)
    monkeypatch.setattr(kind, "mirrors", [f"{server}/mirror/"])
    monkeypatch.setattr(kind, "resources", [(file, "0" * 32) for file, _ in packed])
    with pytest.raises(OSError, match="could not be fetched"):
        mnist.download(name)
    monkeypatch.setattr(kind, "resources", packed)
    assert {path.name for path in mnist.download(name).iterdir()} >= {TRAIN}
    assert len(load_images(name)) == 5
