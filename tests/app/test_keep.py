"""What one takes home of a run: its commands make the same pictures to the bit; films and single samples show what was made."""

import base64
import io
import json
import shlex
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

gr = pytest.importorskip("gradio", reason="the app is an extra: pip install cmlab[app]")

from cmlab.app import films, handlers, keep, view  # noqa: E402
from cmlab.commands.main import main  # noqa: E402
from cmlab.data.pixels import to_uint8  # noqa: E402

RED = np.zeros((384, 384, 4), np.uint8)
RED[100:200, 100:300] = (200, 0, 0, 255)
ON_WHITE = np.where(RED[..., 3:] > 0, RED, 255).astype(np.uint8)
PAINTED = {"background": None, "layers": [RED], "composite": ON_WHITE}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)  # no runs/ here
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))
    return tmp_path


def unpacked(archive: str, folder: Path) -> dict:
    """What the archive's JSON tells. Its pictures are unpacked into "taken", and what its commands read into ``folder``."""
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder / "taken")
    for name in ("original.png", "mask.png"):
        if (taken := folder / "taken" / name).is_file():
            (folder / name).write_bytes(taken.read_bytes())
    return json.loads(next((folder / "taken").glob("*.json")).read_text())


@pytest.mark.parametrize(
    ("run", "options"),
    [
        (handlers.sample, {"count": 5, "edm_steps": 3, "student_steps": 2, "class_name": "3"}),
        (handlers.sample, {"count": 3, "seed": None, "edm_steps": 2, "sampler": "euler"}),
        (handlers.edit, {"task": "inpaint", "mask": "random"}),
        (handlers.edit, {"task": "inpaint", "mask": "painted", "painted": PAINTED, "count": 2}),
        (handlers.edit, {"task": "stroke"}),
        (handlers.edit, {"task": "stroke", "painted": PAINTED, "noise_level": 1.5}),
        (handlers.edit, {"task": "super_resolve", "data": "mnist", "steps": 2, "count": 2}),
        (handlers.edit, {"task": "denoise", "noise_level": 0.7, "count": 2}),
        (handlers.edit, {"task": "colorize", "data": "digits-color", "count": 3}),
    ],
)
def test_the_commands_of_an_archive_make_its_pictures_to_the_bit(folder, run, options):
    *_, last = run(**{"data": "digits", "seed": 7} | ({"steps": 3} if run is handlers.edit else {}) | options)
    told = unpacked(next(part for part in last if str(part).endswith(".zip")), folder)
    assert len(told["commands"]) == (3 if run is handlers.sample else 1) and told["settings"]["seed"] is not None
    for line in told["commands"]:
        assert main(shlex.split(line)[1:]) == 0
        name = line.rpartition("--out=")[2]
        assert (folder / name).read_bytes() == (folder / "taken" / name).read_bytes()


def frames_of(film: dict, track: int) -> np.ndarray:
    """The frames of a track, (frames, H, W, 3)."""
    sheet = Image.open(io.BytesIO(base64.b64decode(film["tracks"][track]["src"].partition(",")[2])))
    return np.stack(np.split(np.asarray(sheet), film["tracks"][track]["frames"], axis=1))


def test_a_film_has_every_step_of_every_sample_and_knows_the_run():
    last: Any
    *_, last = handlers.sample(data="digits", seed=3, count=5, edm_steps=4, student_steps=2)
    edm, film = last[0], last[6]
    assert [t["title"] for t in film["tracks"]] == ["Noisy state", "Guess of the end", "CD", "iCT"]
    assert [t["frames"] for t in film["tracks"]] == [4, 4, 2, 2] and len(film["labels"]) == 4 and film["count"] == 5
    state, guess = frames_of(film, 0), frames_of(film, 1)
    assert state.shape == (4, 2 * 9 - 1, 3 * 9 - 1, 3) and (state[0] != guess[0]).any()
    small = np.asarray(Image.open(edm).resize((26, 17), Image.Resampling.BOX)).astype(int)
    assert np.abs(small - state[-1]).max() <= 1
    one = films.one_of(film["about"], 4)
    assert one == {"data": "digits", "method": "cd", "seed": 7, "class_name": "4"}
    *_, last = handlers.sample(data="digits", seed=7, count=1, edm_steps=1, class_name="4")
    assert (np.asarray(Image.open(last[2]))[::85, ::85] == to_uint8(films.drawn_again(one))[0]).all()
    *_, (_, film, *_) = handlers.interpolate(data="digits", frames=4)
    assert film["count"] == 1 and film["pictures"] == 4 and frames_of(film, 0).shape == (4, 8, 8, 3) and film["start"] == 0
    for about, k in ((None, 0), ({"data": "two-moons"}, 0), ({"data": "digits"}, 1), ({"data": "digits", "seed": 0}, -1)):
        with pytest.raises(ValueError):
            films.one_of(about, k)


def test_the_nearest_training_picture_of_one_is_itself():
    known = view.load_images("digits")
    (first, distance), *rest = films.nearest("digits", known.take(torch.tensor([123])))
    assert distance == 0 and torch.equal(first, known.take(torch.tensor([123]))[0]) and 0 < rest[0][1] <= rest[-1][1]


def test_training_pictures_that_are_not_there_are_told(monkeypatch, folder):
    monkeypatch.setenv("CMLAB_DATA", str(folder))
    films._training.cache_clear()
    with pytest.raises(ValueError, match=r"training pictures of mnist are not on this machine: .*CMLAB_DATA"):
        films.nearest("mnist", torch.zeros(1, 1, 28, 28))


def test_old_files_leave_the_disk(folder, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    monkeypatch.setattr(keep, "MAX_FILES", 3)
    monkeypatch.setattr(keep, "_WRITTEN", {})
    paths = [Path(keep.png(np.full((2, 2, 3), k, np.uint8), "name")) for k in (0, 1, 2, 0, 3)]
    assert [p.exists() for p in paths] == [True, False, True, True, True]  # picture 0 was shown again, so 1 is the oldest
    assert len(list(folder.iterdir())) == 3 and paths[0].name == "name.png"
