"""Several processes: each takes its rows of every batch, and together they train to the weights of one."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import soft3, tiny

from cmlab.commands.main import main
from cmlab.data import MixtureData, load_data
from cmlab.formats import checkpoints
from cmlab.losses import ct
from cmlab.training import fit
from cmlab.training.presets import get_preset
from cmlab.training.processes import ALONE, Processes, from_environment
from cmlab.training.states import read_state
from cmlab.training.trainer import Snapshot, Trainer

# float32 sums in another order, through RAdam: measured 6e-8 after 20 steps.
CLOSE = 1e-6
RUN = ["--steps", "20", "--batch", "8", "--lr", "1e-3", "--device", "cpu"]


def start(folder: Path, code: str, world: int = 2) -> list[tuple[int, str]]:
    """Start ``world`` processes as torchrun does, each of which runs the Python ``code``: exit status and stderr."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    place = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    here = Path(__file__).parent  # this file, and conftest one folder above
    place["PYTHONPATH"] = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
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
        ended = [process.communicate(timeout=1500) for process in started]
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
    "muon": ["8gaussians-edm", *NET, "--optimizer", "muon", "--lr", "0.01"],
    "pd": ["8gaussians-pd", *NET, "--init=", "--teacher", "oracle", "--loss.n.start", "4", "--accumulate", "2"],
}


COMMANDS = {name: ["train", *words, *RUN] for name, words in TRAININGS.items()}
WAYS = {"two": [], "halves": ["--shard"]}  # whole weights in each process, or half of them


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """Where two processes have run all that is compared below with one: to start them costs more than what they do."""
    folder = tmp_path_factory.mktemp("together")
    commands = [[*words, "--out", f"{n}/{name}", *way] for name, words in COMMANDS.items() for n, way in WAYS.items()]
    ended = start(folder, f"commands = {commands!r}\n{TOGETHER}")
    assert [code for code, _ in ended] == [0, 0], ended
    return folder


@pytest.mark.parametrize("name", COMMANDS)
def test_two_processes_train_to_the_weights_of_one(name, together, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = COMMANDS[name]
    assert main([*words, "--out", "one"]) == 0
    assert main([*words, "--lr", "0", "--out", "start"]) == 0
    first, one = (next((tmp_path / n).glob("*.safetensors")) for n in ("start", "one"))
    moved = (weights(one) - weights(first)).abs().max().item()
    for n in WAYS:
        (two,) = (together / n / name).glob("*.safetensors")
        difference = (weights(one) - weights(two)).abs().max().item()
        assert difference < CLOSE, f"{two}: {difference}"
        assert moved > 1e3 * difference and moved > 1e-4, f"{name}: {moved}"
        assert checkpoints.read_meta(two)["about"]["processes"] == 2


# Two processes run the commands. Then, each with half of every weight, they save in the middle of a training, go on from there, and
# compare with not having stopped.
TOGETHER = """
from pathlib import Path

import torch
import torch.distributed as dist
from test_distributed import divided

from cmlab.commands.main import main
from cmlab.training.processes import Processes, leave
from cmlab.training.states import RunFolder, read_state

dist.init_process_group("gloo")
assert {main(words) for words in commands} == {0}
team = Processes(dist.get_rank(), 2, shard=True)
for state in divided(team):
    if state.step == 3:
        snapshot = state.snapshot()
        if team.is_main_process:
            RunFolder(Path()).save(snapshot)
    assert "DTensor" in type(next(state.model.parameters())).__name__
whole = state.snapshot().tensors
dist.barrier()
*_, again = divided(team, read_state(Path("state-00000003.safetensors")))
then = again.snapshot().tensors
assert whole.keys() == then.keys() and all(torch.equal(v, then[k]) for k, v in whole.items()), "not the same bits"
assert bool(whole) == team.is_main_process, "the first process alone keeps them"
dist.destroy_process_group()
leave(0)
"""


def divided(team: Processes, resume: Snapshot | None = None):
    """A training with averages, a target, accumulation, and longer gradients than allowed."""
    options = {"steps": 6, "batch": 8, "ema": (0.9, 0.5), "clip": 0.1, "accumulate": 2, "optimizer": "adam"}
    return fit(tiny(), MixtureData(soft3()), ct(2, 9, 0.5), **options, processes=team, resume=resume)  # type: ignore[arg-type]


def test_processes_that_each_hold_half_of_the_weights_save_and_go_on(together):
    saved = read_state(together / "state-00000003.safetensors")
    at = {state.step: {k: v.clone() for k, v in state.snapshot().tensors.items()} for state in divided(ALONE)}
    assert saved.tensors.keys() == at[3].keys()
    assert max((v - at[3][k]).abs().max().item() for k, v in saved.tensors.items()) < CLOSE
    *_, alone = divided(ALONE, saved)  # what they saved is whole: one process can go on
    assert max((v - at[6][k]).abs().max().item() for k, v in alone.snapshot().tensors.items()) < CLOSE


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
    assert ALONE.rows(5) == range(5) and ALONE.is_main_process and not Processes(1, 2).is_main_process


@pytest.mark.parametrize("name", ["8gaussians", "digits"])
def test_each_process_loads_its_own_rows_of_the_batch(name):
    from cmlab.training.draws import BatchDraws

    data = load_data(name)
    if name == "digits":
        data = replace(data, flip=True)  # pyright: ignore[reportCallIssue]
    whole, label = data.batch(6, BatchDraws(5, 6))
    for rows in (range(3), range(3, 6)):
        x0, y = data.batch(3, BatchDraws(5, 6, rows.start, rows.stop))
        assert torch.equal(x0, whole[rows.start : rows.stop])
        assert (label is None and y is None) or torch.equal(y, label[rows.start : rows.stop])  # type: ignore[index,arg-type]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("ACCELERATE_MIXED_PRECISION", "bf16", "--precision here"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--compile here"),
        ("ACCELERATE_USE_FSDP", "true", "--shard here"),
    ],
)
def test_what_accelerate_is_asked_for_is_not_ignored(variable, value, message, monkeypatch):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=message):
        from_environment()


# What `accelerate launch --multi_gpu` (1.15) tells the second of two processes, and what it tells the only one without that option.
ACCELERATE = {
    "ACCELERATE_MIXED_PRECISION": "no",
    "ACCELERATE_DYNAMO_BACKEND": "NO",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
PLACE = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}


def test_accelerate_says_where_a_process_stands(monkeypatch):
    for name in PLACE:
        monkeypatch.delenv(name, raising=False)
    for name, value in ACCELERATE.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="unless it is told --multi_gpu"):
        from_environment()
    for name, value in PLACE.items():
        monkeypatch.setenv(name, value)
    assert from_environment() == Processes(1, 2, 1)
    assert from_environment(shard=True) == Processes(1, 2, 1, shard=True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["8gaussians-edm", "--compile"], "choose shard or compile"),
        (["8gaussians-edm", "--precision", "fp16"], "choose --precision bf16"),
        (["8gaussians-cct", "--init="], "leave out shard"),
    ],
)
def test_what_divided_weights_cannot_do_is_one_line(words, message):
    loss = get_preset(words[0]).loss
    options = {"compile": "--compile" in words, "precision": "fp16" if "fp16" in words else "float32"}
    with pytest.raises(ValueError, match=message):
        Trainer(torch.nn.Linear(1, 1), loss, processes=Processes(0, 2, shard=True), **options)  # type: ignore[arg-type]


def test_one_process_alone_has_nothing_to_divide(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert main(["train", "8gaussians-edm", "--shard"]) == 1
    assert "start more (torchrun), or leave it out" in capsys.readouterr().err


def test_without_a_launcher_there_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert from_environment() == ALONE
