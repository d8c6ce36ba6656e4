"""Several processes: each takes its rows of every batch, and together they train to the weights of one."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cmlab import checkpoints
from cmlab.cli import main
from cmlab.data import load_data
from cmlab.processes import ALONE, Processes, from_environment

# float32 sums in another order, through RAdam: measured 6e-8 after 20 steps.
CLOSE = 1e-6
RUN = ["--steps", "20", "--batch", "8", "--lr", "1e-3", "--device", "cpu"]


def launch(folder: Path, *commands: list[str], world: int = 2) -> list[tuple[int, str]]:
    """Start ``world`` processes as torchrun does, each of which runs the cmlab commands in turn: exit status and stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    code = (
        "import sys, torch.distributed as dist; from cmlab.cli import main\n"
        "dist.init_process_group('gloo')\n"
        f"status = [main(words) for words in {list(commands)!r}]\n"
        "dist.destroy_process_group()\n"
        "sys.exit(max(status))"
    )
    place = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=folder,
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        ended = [process.communicate(timeout=400) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, err) for process, (_, err) in zip(started, ended, strict=True)]


def weights(path: Path) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in checkpoints.load(path)[0].parameters()])


NET = ["--network.width", "12", "--no-half"]
# A target average; stages, and accumulation in each process.
TRAININGS = {
    "ct": ["8gaussians-ct", *NET, "--loss.weight", "1/dt", "--optimizer", "adam"],
    "pd": ["8gaussians-pd", *NET, "--init=", "--teacher", "oracle", "--loss.n.start", "4", "--accumulate", "2"],
}


def test_two_processes_train_to_the_weights_of_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    commands = {name: ["train", *words, *RUN] for name, words in TRAININGS.items()}
    ended = launch(tmp_path, *([*words, "--out", f"two/{name}"] for name, words in commands.items()))
    assert [code for code, _ in ended] == [0, 0], ended
    for name, words in commands.items():
        assert main([*words, "--out", f"one/{name}"]) == 0
        assert main([*words, "--lr", "0", "--out", f"start/{name}"]) == 0
        start, one, two = (next((tmp_path / n / name).glob("*.safetensors")) for n in ("start", "one", "two"))
        moved, difference = ((weights(one) - weights(other)).abs().max().item() for other in (start, two))
        assert difference < CLOSE, f"{name}: {difference}"
        assert moved > 1e3 * difference and moved > 1e-4, f"{name}: {moved}"
        assert checkpoints.read_meta(two)["about"]["processes"] == 2
        assert [p.name for p in two.parent.iterdir()] == [two.name]


def test_a_world_that_does_not_divide_the_batch_is_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main(["train", "8gaussians-edm", "--batch", "8"]) == 1
    err = capsys.readouterr().err
    assert err == ("cmlab: error: batch 8 does not divide over 3 processes: choose 6 or 9, or start another number of processes\n")


def test_rows_share_a_batch():
    assert [list(Processes(rank, 3).rows(6)) for rank in range(3)] == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(ValueError, match="choose 3, or"):
        Processes(0, 3).rows(2)
    assert ALONE.rows(5) == range(5) and ALONE.first and not Processes(1, 2).first


@pytest.mark.parametrize("name", ["8gaussians", "digits"])
def test_each_process_loads_its_own_rows_of_the_batch(name):
    from cmlab.noise import BatchDraws

    data = load_data(name)
    if name == "digits":
        data = replace(data, flip=True)  # pyright: ignore[reportCallIssue]
    g = lambda: torch.Generator().manual_seed(5)  # noqa: E731
    whole, label = data.batch(6, g())
    for rows in (range(3), range(3, 6)):
        x0, y = data.batch(3, BatchDraws(g(), 6, rows.start, rows.stop))
        assert torch.equal(x0, whole[rows.start : rows.stop])
        assert (label is None and y is None) or torch.equal(y, label[rows.start : rows.stop])  # type: ignore[index,arg-type]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [("ACCELERATE_MIXED_PRECISION", "bf16", "--precision here"), ("ACCELERATE_USE_FSDP", "true", "plain data parallelism")],
)
def test_what_accelerate_is_asked_for_is_not_ignored(variable, value, message, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        from_environment()


def test_without_a_launcher_there_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert from_environment() == ALONE
