"""Runs that stop and go on: to the same bits, from whatever a kill, a full disk or a scheduler leaves behind."""

import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import soft3, tiny
from torch import nn

from cmlab.commands.main import main
from cmlab.data import ImageData, MixtureData, digits
from cmlab.denoiser import EDM, Denoiser
from cmlab.formats import checkpoints
from cmlab.losses import EDMLoss, cd, ct, ect, ict
from cmlab.methods.augment import CIFAR10_AUGMENT
from cmlab.methods.continuous import SCMLoss, attach_uncertainty, trigflow
from cmlab.methods.progressive import HalvingN, ProgressiveLoss
from cmlab.networks import MLPConfig
from cmlab.training import Snapshot, Trainer, TrainState, fit
from cmlab.training.presets import get_preset
from cmlab.training.states import Curves, RunFolder, changes, flatten, read_state, write_state
from cmlab.training.trainer import HalfLife

POINTS = MixtureData(soft3())


def states_of(trainer: Trainer) -> list[torch.Tensor]:
    return [v.clone() for _, v in sorted(trainer.snapshot().tensors.items())]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def images(classes: int = 2) -> ImageData:
    return replace(digits(), x0=digits().x0[:40].expand(-1, 3, -1, -1), label=digits().label[:40], flip=True)  # type: ignore[index]


def adaptive() -> Denoiser:
    return attach_uncertainty(tiny(precond=SCMLoss("noise").precond))  # type: ignore[arg-type]


# What each training is: model, data, loss, and options of `fit`.
KINDS: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
    "edm": (lambda: tiny(precond=EDM), POINTS, EDMLoss(), {}),
    "dropout": (lambda: tiny(precond=EDM, dropout=0.3), POINTS, EDMLoss(), {"accumulate": 2}),
    "averages": (lambda: tiny(precond=EDM), POINTS, EDMLoss(), {"ema": (HalfLife(1e-5, 0.5), 0.9, 0.5)}),
    "adam": (lambda: tiny(precond=EDM), POINTS, EDMLoss(), {"optimizer": "adam", "beta2": 0.99, "rampup": 2e-5, "clip": 0.1}),
    "muon": (lambda: tiny("unet", EDM, 10), images(), EDMLoss(), {"optimizer": "muon", "lr": 0.01}),
    "linear": (lambda: tiny(precond=EDM), POINTS, EDMLoss(), {"optimizer": "adamw", "lr_schedule": "linear", "weight_decay": 0.1}),
    "bf16": (lambda: tiny(precond=EDM), POINTS, EDMLoss(), {"precision": "bf16"}),
    "pd": (lambda: tiny(precond=EDM), POINTS, ProgressiveLoss(HalvingN(4)), {"teacher": soft3()}),
    "pd-ema": (lambda: tiny(precond=EDM), POINTS, ProgressiveLoss(HalvingN(4), teacher_from="ema"), {"teacher": soft3()}),
    "cd": (tiny, POINTS, cd(9), {"teacher": soft3()}),
    "ct": (tiny, POINTS, ct(2, 9, 0.5), {}),
    "ict": (lambda: tiny(dropout=0.2), POINTS, ict(2, 8), {}),
    "ect": (tiny, POINTS, ect(2.0, 3), {}),
    "sct": (adaptive, POINTS, SCMLoss("noise"), {}),
    "trigflow": (lambda: tiny(precond=trigflow().precond), POINTS, trigflow(), {}),  # type: ignore[arg-type]
    "labels": (
        lambda: Denoiser(tiny("unet", EDM, 10).net, EDM, (3, 8, 8), 10, drops_labels=True),
        images(),
        EDMLoss(),
        {"label_dropout": 0.5, "channels_last": True, "lr": 1e-4},
    ),
    "augment": (
        lambda: tiny("song", EDM, 10, augment=9, dropout=0.1),
        images(),
        EDMLoss(),
        {"augment": replace(CIFAR10_AUGMENT, p=0.5), "lr": 1e-4},
    ),
}  # fmt: skip


def training(kind: str, **more):
    make, data, loss, options = KINDS[kind]
    return fit(make(), data, loss, **({"steps": 10, "batch": 8, "lr": 0.02} | options | more))


def saved(state: TrainState, folder: Path) -> Snapshot:
    """Through a file, as a run does it."""
    return read_state(RunFolder(folder).save(state.snapshot()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_stops_goes_on_to_the_same_bits(kind, tmp_path):
    # PD's stages of 10 steps begin at 0, 2 and 6: before, at and after their borders.
    stops = (2, 3, 6, 9) if kind.startswith("pd") else (4,)
    snapshots, state = {}, None
    for state in training(kind):
        if state.step in stops:
            snapshots[state.step] = saved(state, tmp_path / str(state.step))
    assert state is not None
    whole = states_of(state.trainer)
    for stop, snapshot in snapshots.items():
        resumed = list(training(kind, resume=snapshot))
        assert [s.step for s in resumed] == list(range(stop + 1, 11))
        assert same(states_of(resumed[-1].trainer), whole), f"stopped after {stop}"
        assert resumed[-1].loss == state.loss and state.skipped == 0


def test_a_finished_training_resumes_to_its_end(tmp_path):
    *_, last = training("edm")
    (again,) = training("edm", resume=saved(last, tmp_path))
    assert (again.step, again.loss) == (10, last.loss)
    assert same(states_of(again.trainer), states_of(last.trainer))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("edm", {"steps": 0}, "steps.*at least 1"),
        ("edm", {"seed": 1}, "a training of seed 0"),
        ("edm", {"ema": (0.9, 0.8)}, "nothing for ema1"),
        ("ct", {}, "nothing for target"),
        ("labels", {}, "resume with the options"),
    ],
)
def test_a_state_of_another_training_is_refused(kind, change, message, tmp_path):
    snapshot = saved(next(training("edm")), tmp_path)
    with pytest.raises(ValueError, match=message):
        next(training(kind, resume=snapshot, **change))


# --- steps that are not finite -------------------------------------------------------------------------------------------


class Bad(EDMLoss):
    """Not finite at some steps of ten."""

    at: tuple = ()

    def __call__(self, model, x0, label=None, *, progress=0.0, **rest):
        out = super().__call__(model, x0, label, progress=progress, **rest)
        return out._replace(loss=out.loss * (float("nan") if round(progress * 10) in self.at else 1.0))


def bad(*at: int, **options) -> list[tuple[int, float, int, list[torch.Tensor]]]:
    loss = Bad()
    object.__setattr__(loss, "at", at)
    made = fit(tiny(precond=EDM), POINTS, loss, steps=10, batch=8, **options)
    return [(s.step, s.loss, s.skipped, states_of(s.trainer)) for s in made]


def test_a_step_that_is_not_finite_moves_nothing_and_is_counted():
    states = bad(3, 4, 7, every=1)
    assert [skipped for _, _, skipped, _ in states] == [0, 0, 0, 1, 2, 2, 2, 3, 3, 3]
    assert [step for step, loss, _, _ in states if loss != loss] == [4, 5, 8]
    assert same(states[2][3], states[4][3])
    assert not same(states[4][3], states[5][3])
    assert all(bool(v.isfinite().all()) for v in states[-1][3])


def test_the_mean_loss_is_that_of_the_steps_that_were_made():
    single = {step: loss for step, loss, _, _ in bad(3, every=1)}
    grouped = bad(3, every=5)
    assert grouped[0][1] == pytest.approx(sum(single[k] for k in (1, 2, 3, 5)) / 4, rel=1e-6)


def test_too_many_in_a_row_stop_the_training():
    assert len(bad(3, 4, 6, 7, max_skipped=3)) == 10
    with pytest.raises(FloatingPointError, match="at step 6 and 2 before it: lower the learning rate"):
        bad(3, 4, 5, max_skipped=3)


# --- files ---------------------------------------------------------------------------------------------------------------


def snapshot_of(step: int) -> Snapshot:
    return Snapshot({"a": torch.full((1000,), float(step))}, {"step": step})


def test_the_last_states_are_kept(tmp_path):
    folder = RunFolder(tmp_path / "run", keep=2)
    for step in (5, 10, 15):
        folder.save(snapshot_of(step))
    assert [p.name for p in folder.states()] == ["state-00000015.safetensors", "state-00000010.safetensors"]
    folder.clear()
    assert not folder.path.exists()


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"not a state", lambda b: b"\xff" * 100])
def test_a_damaged_state_gives_way_to_the_one_before(damage, tmp_path):
    folder = RunFolder(tmp_path)
    for step in (5, 10):
        newest = folder.save(snapshot_of(step))
    newest.write_bytes(damage(newest.read_bytes()))
    snapshot, path, wrong = folder.newest()
    assert snapshot.facts["step"] == 5 and path.name.endswith("5.safetensors")
    assert len(wrong) == 1 and str(newest) in wrong[0]
    path.write_bytes(b"")
    with pytest.raises(checkpoints.CheckpointError, match="--overwrite to start anew"):
        folder.newest()


def test_a_full_disk_is_an_error_that_leaves_earlier_states(tmp_path):
    folder = RunFolder(tmp_path)
    first = folder.save(snapshot_of(5))
    content = first.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # the system itself refuses to write more
    try:
        with pytest.raises(checkpoints.CheckpointError, match=r"cannot save the state.*Make room"):
            folder.save(snapshot_of(10))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == [first.name] and first.read_bytes() == content
    assert folder.newest()[0].facts["step"] == 5


def test_nothing_in_a_state_is_executed(tmp_path):
    path = tmp_path / "state-00000005.safetensors"
    torch.save({"a": nn.Linear(2, 2)}, path)
    with pytest.raises(checkpoints.CheckpointError, match="no state of a run"):
        read_state(path)


def test_a_state_of_another_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("cmlab.training.states.FORMAT", 99)
    write_state(tmp_path / "s.safetensors", snapshot_of(1))
    monkeypatch.undo()
    with pytest.raises(checkpoints.CheckpointError, match="finish the run with the cmlab that began it"):
        read_state(tmp_path / "s.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 5e-4}, "saved with --lr 0.002, not 0.0005"),
        ({"loss": cd()}, "saved with --loss DenoisingLoss, not ConsistencyLoss"),
        ({"network": MLPConfig(width=9)}, "saved with --network.width 64, not 9"),
        ({"emas": (0.5,)}, "saved with --emas"),
    ],
)
def test_a_changed_preset_is_named(change, message):
    preset = get_preset("8gaussians-edm")
    saved = json.loads(json.dumps(flatten(preset)))
    assert not changes(saved, flatten(preset), Path("x"))
    with pytest.raises(checkpoints.CheckpointError, match=message) as error:
        changes(saved, flatten(replace(preset, **change)), Path("x"))
    assert "--overwrite to start anew" in str(error.value)


# --- the command ---------------------------------------------------------------------------------------------------------

SMALL = ["8gaussians-edm", "--steps", "40", "--batch", "8", "--network.width", "8"]


def stopped_after(step: int, monkeypatch, number: int = signal.SIGTERM, *words: str, run: Sequence[str] = SMALL) -> int:
    """`cmlab train` that gets a signal during a step; returns its exit status."""
    with monkeypatch.context() as patch:
        calls, of = [0], Trainer.step

        def stepping(self, *args):
            calls[0] += 1
            if calls[0] == step:
                os.kill(os.getpid(), number)
            return of(self, *args)

        patch.setattr(Trainer, "step", stepping)
        return main(["train", *run, *words])


def weights(path: str = "runs/8gaussians-edm.safetensors") -> list[torch.Tensor]:
    return [p.detach() for p in checkpoints.load(path)[0].parameters()]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_goes_on(number, code, folder, monkeypatch, capsys):
    assert main(["train", *SMALL, "--out", "whole"]) == 0
    assert stopped_after(13, monkeypatch, number) == code
    err = capsys.readouterr().err
    assert "after step 13 of 40" in err and "Continue with: cmlab train 8gaussians-edm" in err and err.rstrip().endswith("--resume")
    left = {"config.toml", "log.csv"}
    assert {p.name for p in (folder / "runs/8gaussians-edm").iterdir()} == left | {"state-00000013.safetensors"}
    assert main(["train", *SMALL]) == 1
    err = capsys.readouterr().err
    assert "unfinished run, saved at step 13" in err and "--resume" in err and "--overwrite" in err
    assert main(["train", *SMALL, "--beta2", "0.9", "--resume"]) == 1
    assert "--beta2 0.999" in capsys.readouterr().err
    assert main(["train", *SMALL, "--resume"]) == 0
    assert same(weights(), weights("whole/8gaussians-edm.safetensors"))
    assert {p.name for p in (folder / "runs/8gaussians-edm").iterdir()} == left | {"state-00000040.safetensors"}
    capsys.readouterr()
    assert main(["train", *SMALL, "--resume"]) == 0  # a script that asks again
    assert "finished" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_overwrite_starts_anew(monkeypatch):
    stopped_after(5, monkeypatch)
    assert main(["train", *SMALL, "--overwrite", "--seed", "1"]) == 0
    assert [p.name for p in RunFolder(Path("runs/8gaussians-edm")).states()] == ["state-00000040.safetensors"]
    one = weights()
    assert main(["train", *SMALL, "--seed", "1", "--out", "other"]) == 0
    assert same(one, weights("other/8gaussians-edm.safetensors"))


@pytest.mark.usefixtures("folder")
def test_states_every_so_many_steps_and_the_newest_that_can_be_read(monkeypatch, capsys):
    stopped_after(26, monkeypatch, signal.SIGTERM, "--save-every", "8", "--keep", "3")
    states = RunFolder(Path("runs/8gaussians-edm")).states()
    assert [int(p.stem[-2:]) for p in states] == [26, 24, 16]
    states[0].write_bytes(states[0].read_bytes()[:5000])
    assert main(["train", *SMALL, "--resume"]) == 0
    assert "taking the one before" in capsys.readouterr().err
    one = weights()
    assert main(["train", *SMALL, "--out", "whole"]) == 0
    assert same(one, weights("whole/8gaussians-edm.safetensors"))


@pytest.mark.usefixtures("folder")
def test_a_log_file_gets_lines_where_a_terminal_has_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("cmlab.training.loop.TELL", -1.0)
    assert main(["train", *SMALL]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("8gaussians-edm: ")]
    assert " 40/40 [" in lines[-1] and "loss=" in lines[-1] and lines[-1].endswith("]")
    assert len(lines) > 5 and " 50%" in "".join(lines)


@pytest.mark.usefixtures("folder")
def test_another_teacher_is_not_the_same_run(monkeypatch, capsys):
    net = ["--network.width", "8"]
    student = ["8gaussians-cd", "--steps", "9", "--batch", "4", "--init=", *net]
    for seed in (0, 1):
        assert main(["train", "8gaussians-edm", "--steps", "2", "--batch", "4", *net, "--seed", str(seed), "--out", str(seed)]) == 0
    student += ["--teacher", "0/8gaussians-edm.safetensors"]
    assert stopped_after(4, monkeypatch, run=student) == 143
    Path("0/8gaussians-edm.safetensors").write_bytes(Path("1/8gaussians-edm.safetensors").read_bytes())
    capsys.readouterr()
    assert main(["train", *student, "--resume"]) == 1
    assert "another teacher" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_grids_from_the_same_seeds():
    assert main(["train", *SMALL, "--grid-every", "20"]) == 0
    assert sorted(p.name for p in Path("runs/8gaussians-edm").glob("*.png")) == ["samples-00000020.png", "samples-00000040.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume", "--overwrite"], "choose one"),
        (["--keep", "-1"], "--keep is at least 0"),
        (["--name", "../x"], "a plain name"),
        (["--save-every", "-1"], "cannot be negative"),
        (["--fd-every", "5"], "8gaussians has points: leave it out"),
        (["--halflife", "0.5"], "two ways to say one thing"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_options_that_make_no_sense(words, message, capsys):
    assert main(["train", *SMALL, *words]) == 1
    assert message in capsys.readouterr().err


# --- what a run remembers of its way --------------------------------------------------------------------------------------


def test_a_loss_curve_has_at_most_200_means_of_equal_lengths():
    curves = Curves(1001)
    for step in range(1, 1002):
        curves.see(step, float(step), 0)
    pairs = curves.about()["loss_curve"]
    assert len(pairs) == 167 and pairs[0] == [6, 3.5] and pairs[1] == [12, 9.5] and pairs[-1] == [1001, 999.0]
    short = Curves(3)
    short.see(2, 4.0, 0)
    short.see(3, float("nan"), 1)  # the only step since then was skipped
    assert short.about() == {"loss_curve": [[2, 4.0]]}


def test_curves_go_on_where_a_state_left_them():
    whole, first = Curves(1000), Curves(1000)
    for curves, stop in ((whole, 1001), (first, 503)):
        for step in range(1, stop):
            curves.see(step, step**0.5, 0)
        if stop > 300:
            curves.measured(300, 12.34567)
    again = Curves(**json.loads(json.dumps(asdict(first))))
    for step in range(503, 1001):
        again.see(step, step**0.5, 0)
    assert again.about() == whole.about() and whole.about()["fd_curve"] == [[300, 12.35]]


DIGITS = ["digits-edm", "--steps", "6", "--batch", "4", "--network.channels", "8"]


def about(path: str) -> dict[str, Any]:
    return checkpoints.read_meta(path)["about"]


@pytest.mark.usefixtures("folder")
def test_distances_while_it_trains_change_nothing_and_survive_a_stop(monkeypatch, capsys):
    monkeypatch.setattr("cmlab.training.session.FD_SAMPLES", 16)
    often, file = ["--fd-every", "2"], "digits-edm.safetensors"
    assert main(["train", *DIGITS, "--out", "plain"]) == 0
    assert main(["train", *DIGITS, "--out", "whole", *often]) == 0
    out = capsys.readouterr().out
    assert stopped_after(3, monkeypatch, signal.SIGTERM, *often, run=DIGITS) == 143
    assert main(["train", *DIGITS, *often, "--resume"]) == 0
    plain, whole, resumed = (about(f"{side}/{file}") for side in ("plain", "whole", "runs"))
    assert same(weights(f"plain/{file}"), weights(f"whole/{file}")) and same(weights(f"whole/{file}"), weights(f"runs/{file}"))
    assert "fd_curve" not in plain and [step for step, _ in whole["fd_curve"]] == [2, 4, 6]
    assert whole["fd_curve"] == resumed["fd_curve"]
    assert plain["loss_curve"] == whole["loss_curve"] == resumed["loss_curve"] and len(plain["loss_curve"]) == 6
    assert f"step 4: FD-cls {whole['fd_curve'][1][1]} of 16 samples" in out


def test_tensorboard_has_the_losses_the_distances_and_the_pictures(folder, monkeypatch):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs cmlab[log]")
    monkeypatch.setattr("cmlab.training.session.FD_SAMPLES", 16)
    words = ["--tensorboard", "--fd-every", "3", "--grid-every", "3"]
    assert stopped_after(3, monkeypatch, signal.SIGTERM, *words, run=DIGITS) == 143
    assert main(["train", *DIGITS, *words, "--resume"]) == 0
    log = accumulator.EventAccumulator(str(folder / "runs/digits-edm"))
    log.Reload()
    kept = about("runs/digits-edm.safetensors")
    assert [[e.step, pytest.approx(e.value, rel=1e-3)] for e in log.Scalars("loss")] == kept["loss_curve"]
    assert [[e.step, pytest.approx(e.value, rel=1e-3)] for e in log.Scalars("FD-cls")] == kept["fd_curve"]
    assert [e.step for e in log.Images("samples")] == [3, 6]


@pytest.mark.usefixtures("folder")
def test_half_precision_finds_its_scale_and_trains():
    assert main(["train", *SMALL, "--precision", "fp16", "--ema", "0"]) == 0
    assert main(["train", *SMALL, "--ema", "0", "--out", "float"]) == 0
    half, full = weights(), weights("float/8gaussians-edm.safetensors")
    assert about("runs/8gaussians-edm.safetensors").get("skipped", 0) < 20
    assert all(bool(v.isfinite().all()) for v in half) and not same(half, full)


@pytest.mark.usefixtures("folder")
def test_what_is_compiled_trains_to_the_same_bits(monkeypatch):
    # Torch's tracing alone, in seconds: its code generator takes a minute and a C++ compiler.
    of, seen = nn.Module.compile, []

    def compiled(self: nn.Module, **options: Any) -> None:
        seen.append(options)
        of(self, backend="eager")

    monkeypatch.setattr(nn.Module, "compile", compiled)
    words = ["8gaussians-ct", "--steps", "3", "--batch", "4", "--network.width", "8", "--network.dropout", "0.5"]
    assert main(["train", *words, "--compile"]) == 0
    assert main(["train", *words, "--out", "plain"]) == 0
    assert len(seen) == 6  # three blocks of the model, as many of its target
    assert seen[0] == {"dynamic": False, "options": {"fallback_random": True}}
    assert same(weights("runs/8gaussians-ct.safetensors"), weights("plain/8gaussians-ct.safetensors"))


def test_kills_at_any_instant(tmp_path):
    # The short form of benchmarks/kills.py.
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    try:
        from kills import command, kill_and_resume  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    _, _, _, *words = command(tmp_path / "whole", 300)
    assert main(words) == 0
    report = kill_and_resume(tmp_path, kills=2, seed=0, steps=300)
    assert report.kills == 2 and report.unreadable == 0
    assert report.equal, report


def test_a_run_in_a_thread_is_not_told_of_signals():
    import threading

    from cmlab.base.signals import answering
    from cmlab.training.loop import Stop

    seen = []
    before = signal.getsignal(signal.SIGTERM)

    def watch() -> None:
        stop = Stop()
        with answering(stop, signal.SIGTERM, signal.SIGINT):
            seen.append(stop.number)

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert seen == [0] and signal.getsignal(signal.SIGTERM) is before
