"""``cmlab search``, ``cmlab likelihood`` and ``cmlab sample --sigmas``: what they print, and what each wrong input says."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import said, tiny

from cmlab.commands.main import main
from cmlab.data import load_data
from cmlab.denoiser import EDM
from cmlab.evaluation.levels import wasserstein_score
from cmlab.formats import checkpoints
from cmlab.methods.search import greedy_search
from cmlab.noise import karras_sigmas, seeds_from
from cmlab.samplers import sample


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    checkpoints.save(folder / "cm.safetensors", tiny("mlp"), {"data": "8gaussians"})
    checkpoints.save(folder / "edm.safetensors", tiny("mlp", EDM), {"preset": "two-moons-edm"})
    checkpoints.save(folder / "silent.safetensors", tiny("mlp"))
    checkpoints.save(folder / "pictures.safetensors", tiny("unet", classes=10), {"data": "digits-color"})
    return folder


def run(args: str, capsys, **names) -> tuple[int, str, str]:
    code = main(args.format(**names).split())
    out, err = capsys.readouterr()
    return code, out, err


def test_search_prints_what_the_library_finds(models, capsys):
    code, out, _ = run("search {m}/cm.safetensors --points 2 --n 200 --seed 3 --grid 12", capsys, m=models)
    assert code == 0
    model = checkpoints.load(models / "cm.safetensors")[0]
    score = wasserstein_score(model, load_data("8gaussians"), 200, 3)
    found = greedy_search(score, karras_sigmas(12), 2)
    table = [line.split() for line in out.splitlines() if line.strip()[:1] in "123"]
    assert [int(row[0]) for row in table[:3]] == [1, 2, 3]
    assert [float(row[1]) for row in table[:3]] == pytest.approx([e.score for e in found.best], abs=1e-4)
    assert [float(s) for s in table[2][3:]] == pytest.approx(found.sigmas, rel=1e-4)
    assert f"{found.evaluations} lists of levels scored" in out and "--sigmas 80" in out


def test_every_search_option_changes_the_search(models, capsys):
    start = "search {m}/cm.safetensors --n 60 --grid 9"
    plain = run(start, capsys, m=models)[1]
    assert plain == run(start, capsys, m=models)[1]
    for option in ("--points 2", "--n 61", "--seed 1", "--grid 10", "--data rings", "--tolerance 9"):
        assert run(f"{start} {option}", capsys, m=models)[1] != plain, option


def test_search_takes_pictures(models, capsys):
    code, out, _ = run("search {m}/pictures.safetensors --n 8 --grid 4", capsys, m=models)
    assert code == 0 and "digits-color" in out


def test_sample_uses_the_levels_that_were_found(models, tmp_path, capsys):
    args = "sample {m}/cm.safetensors --sigmas 80 1.5 0.3 --n 3 --out {o}/x.npz"
    code, out, _ = run(args, capsys, m=models, o=tmp_path)
    assert code == 0 and "multistep with 3 steps" in out
    model = checkpoints.load(models / "cm.safetensors")[0]
    expected = sample(model, (2,), seeds_from(0, 3), "multistep", sigmas=torch.tensor([80, 1.5, 0.3], dtype=torch.float64))
    np.testing.assert_allclose(np.load(tmp_path / "x.npz")["x"], expected.numpy(), atol=1e-5)
    code, out, _ = run("sample {m}/edm.safetensors --sigmas 80 5 0 --out {o}/y.npz", capsys, m=models, o=tmp_path)
    assert code == 0 and "heun with 2 steps" in out


def test_likelihood_stands_beside_the_datas_own_density(models, capsys):
    code, out, _ = run("likelihood {m}/edm.safetensors --n 6", capsys, m=models)
    assert code == 0 and "6 samples of two-moons" in out and "bits per dimension" in out and "own density" in out
    other = run("likelihood {m}/edm.safetensors --n 6 --probes 2", capsys, m=models)[1]
    assert other.splitlines()[0] != out.splitlines()[0]


WRONG = {
    "search": "Missing from cmlab search: CHECKPOINT",
    "search {m}/none.safetensors": "no checkpoint at",
    "search {m}/edm.safetensors": "is a diffusion model",
    "search {m}/cm.safetensors --points 0": "at least 1",
    "search {m}/cm.safetensors --n 0": "at least 1",
    "search {m}/cm.safetensors --grid 2": "--grid must be at least 3",
    "search {m}/cm.safetensors --grid 4 --points 3": "--grid must be at least 5",
    "search {m}/cm.safetensors --tolerance -1": "cannot be -1",
    "search {m}/cm.safetensors --data digits": "digits has samples of shape (1, 8, 8)",
    "search {m}/cm.safetensors --data 8gausians": "did you mean '8gaussians'",
    "search {m}/cm.safetensors --point 1": "Perhaps you meant: --points",
    "search {m}/silent.safetensors": "pass --data NAME",
    "sample {m}/cm.safetensors --sigmas 80 90": "must decrease",
    "sample {m}/cm.safetensors --sigmas 80 0.001": "lie above 0.002",
    "sample {m}/cm.safetensors --sigmas 80 nan": "must decrease",
    "sample {m}/cm.safetensors --sigmas 80 --steps 2": "leave --steps out",
    "sample {m}/cm.safetensors --sigmas": "at least one noise level",
    "sample {m}/edm.safetensors --sigmas 80 5": "end in 0",
    "likelihood {m}/cm.safetensors --data rings": "consistency model",
    "likelihood {m}/edm.safetensors --n 1": "at least 2",
    "likelihood {m}/edm.safetensors --probes -1": "at least 0",
    "likelihood {m}/edm.safetensors --dequantize": "points are not rounded",
    "likelihood {m}/edm.safetensors --bin-width 0": "bin_width must be above 0",
    "likelihood {m}/edm.safetensors --data digits": "samples of shape (1, 8, 8)",
}


@pytest.mark.parametrize("args", WRONG)
def test_wrong_input_is_one_line_that_names_the_way_out(args, models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(args, capsys, m=models)
    if code == 2 and args:  # tyro says it, in a box
        assert WRONG[args] in said(err)
    else:
        assert code == 1 and err.startswith("cmlab: error: ") and err.count("\n") == 1, err
        assert WRONG[args] in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["search", "likelihood"])
def test_help_explains(command, capsys):
    assert main([command, "--help"]) == 0
    assert "usage" in capsys.readouterr().out
