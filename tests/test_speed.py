"""benchmarks/run.py, whole, on toy networks; benchmarks/gpu.sh with a program that pretends."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import normal, randomise

from cmlab.networks import UNetConfig, build_network


@pytest.fixture
def programs(monkeypatch):
    """Imports a program of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return importlib.import_module


def test_the_table_is_whole(programs, tmp_path, monkeypatch, capsys):
    run, turns = programs("run"), programs("turns")
    calls = []
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "def steps(given):\n    return {'forward': lambda: given.net(given.x0, given.x0.new_ones(len(given.x0)))}\n"
    )
    monkeypatch.setattr(turns, "has_bf16", lambda device: calls.append(device) or True)
    run.main(["--tiny", "--rounds", "2", "--against", "mine:steps", "--out", "speed"])
    found, text = json.loads(Path("speed.json").read_text()), Path("speed.md").read_text()
    assert text == capsys.readouterr().out and calls and str(tmp_path) in sys.path
    rows = set(turns.ROWS) - {"own step"}
    for table, ours in (("ADM U-Net", {"cmlab float32", "cmlab bf16"}), ("2D", {"cmlab float32"})):
        lines = {(line["row"], line["of"]): line for line in found[table]}
        assert set(lines) == {(row, of) for row in rows for of in ours | {"plain"}} | {("forward", "mine:steps")}
        for (row, of), line in lines.items():
            assert len(line["seconds"]) == 2 and 0 < min(line["seconds"]) <= line["ms"] / 1000 <= max(line["seconds"])
            assert line["memory_gib"] > 0 and line["of_peak"] > 0 and (line["plain_to_this"] is None) == (of == "plain")
            assert (line["to_floor"] is None) == row.startswith("forward")
            assert f"| {row} | {of} | " in text


def test_ratios_and_floors_are_those_of_each_round(programs):
    turns = programs("turns")
    seconds = {"forward": [1.0, 2.0, 4.0], "forward + backward": [3.0, 3.0, 3.0], "CD step": [12.0, 27.0, 15.0]}
    lines = [turns.Line(row, "cmlab", "float32", turns.ROWS[row], 6.0, s) for row, s in seconds.items()]
    lines += [turns.Line("CD step", "plain", "float32", turns.ROWS["CD step"], 6.0, [24.0, 27.0, 45.0])]
    *_, step, plain = turns.conclude(lines, {"float32": 4.0})
    assert (step.ms, step.of_peak) == (15_000, 0.1)  # 6 of 15 x 4
    assert step.to_floor == 2.0  # 12 / (3 + 3), 27 / (6 + 3), 15 / (12 + 3)
    assert step.plain_to_this == 2.0 and plain.plain_to_this is plain.to_floor is None


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig(8, (1, 2), blocks=2, attention=(4,), head_channels=8, group=1, max_groups=4, time_scale=1000.0),
        UNetConfig(8, (2, 1), blocks=1, attention=(8, 4), head_channels=4, emb=12),
        UNetConfig(8, (1, 2), heads=2, resample="pool", patch=2),
    ],
)
def test_the_plain_network_is_the_same_network(programs, config):
    plain_network = programs("plain").plain_network
    net = randomise(build_network(config, (3, 8, 8)))
    x, level = normal(2, 3, 8, 8).float(), torch.tensor([0.3, -1.0])
    plain = plain_network(net, (3, 8, 8))
    assert (type(plain) is type(net)) == (config.patch == 2)
    torch.testing.assert_close(plain(x, level), net(x, level), atol=1e-5, rtol=1e-4)


@pytest.fixture
def gpu(tmp_path):
    """Calls gpu.sh with a python that notes its words, and fails where one of them is in the file `fails`."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\ncd {tmp_path}\necho "$*" >> words\ncase "$*" in *$(cat fails 2>/dev/null || echo nothing)*) exit 3;; esac\n'
    )
    python.chmod(0o755)

    def call(*words, **changes):
        env = os.environ | {"PYTHON": str(python), "OUT": str(tmp_path / "out")} | changes
        script = Path(__file__).parents[1] / "benchmarks" / "gpu.sh"
        return subprocess.run(["bash", script, *words], env=env, capture_output=True, text=True)

    return call


def test_pieces_of_a_gpu_are_run_once_and_go_on(gpu, tmp_path):
    pieces = gpu("list").stdout.splitlines()
    assert len(pieces) == 17 and all("--device cuda" in p for p in pieces[1:]) and not (tmp_path / "out").exists()
    (tmp_path / "fails").write_text("cifar10-ct")
    first = gpu("run", "speed-*")
    assert first.returncode == 1 and "failed: speed-cifar10-ct" in first.stderr
    listed = gpu("list").stdout.splitlines()
    assert sum("(done)" in p for p in listed) == 7 and not any("(done)" in p for p in listed if "speed-cifar10-ct:" in p)
    (tmp_path / "fails").unlink()
    (tmp_path / "words").unlink()
    assert gpu("run", "speed-*").returncode == 0
    assert (tmp_path / "words").read_text().count("\n") == 1  # what had failed, and nothing else
    assert gpu("run", MINUTES="0").returncode == 124
    assert "--tiny" in gpu("dry-run", "table").stdout and "--device cpu" in (tmp_path / "words").read_text()
