"""From nothing to cards by one command: killed after everything it does, stopped by a signal, begun with other options."""

import json
import os
import signal

import pytest
from conftest import said
from safetensors.torch import load_file

from cmlab.base.files import write_whole
from cmlab.base.presets import CHAINS
from cmlab.commands.chain import stages_of
from cmlab.commands.main import main
from cmlab.formats import checkpoints
from cmlab.samplers import plan
from cmlab.training import chain, session
from cmlab.training.chain import find_figures
from cmlab.training.loop import Interrupted
from cmlab.training.presets import PRESETS

DATA = "digits-color:3,8"
TOY = [
    "train", "digits-color-chain", "--data", DATA, "--batch", "4", "--network.channels", "4", "--network.emb", "8",
    "--edm.steps", "3", "--cd.steps", "2", "--ict.steps", "2", "--n", "12", "--search", "10",
]  # fmt: skip
NAMES = ("digits-color-edm", "digits-color-cd", "digits-color-ict")


class Killed(BaseException):
    """Nothing catches it, as nothing catches a kill."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A chain that nobody stopped."""
    out = tmp_path_factory.mktemp("chain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CMLAB_CACHE", str(out / "cache"))
        assert main([*TOY, "--out", str(out)]) == 0
    return out


def state(out, name):
    about = checkpoints.read_meta(out / f"{name}.safetensors")["about"]
    figures = [{k: one.get(k) for k in ("sampler", "steps", "sigmas", "figures")} for one in about["measured"].values()]
    return load_file(out / f"{name}.safetensors"), figures, about.get("two_steps")


def test_one_command_makes_models_figures_and_cards(finished):
    for name in NAMES:
        text = (finished / f"{name}.md").read_text()
        assert f"# {name}" in text and "## Licence" in text and "Digits in colour: 3, 8" in text and "## Curves" in text
        for picture in ("curves-loss", "samples", "neighbours"):
            assert f"({name}-{picture}.png)" in text and (finished / f"{name}-{picture}.png").stat().st_size > 2000
        model, meta = checkpoints.load(finished / f"{name}.safetensors")
        about = meta["about"]
        assert about["images"] == 4 * (3 if name.endswith("edm") else 2) and about["machine"]
        if name.endswith("edm"):
            assert (found := find_figures(finished / f"{name}.safetensors", plan(model, "heun", 5), 12))
            assert find_figures(finished / f"{name}.safetensors", plan(model, "heun", 5), 12, found["features"]) == found
            assert find_figures(finished / f"{name}.safetensors", plan(model, "heun", 5), 12, "another classifier") is None
            continue
        assert "teacher, 18 steps" in text and "teacher's samples" in text
        sigmas = about["two_steps"]["sigmas"]
        assert len(sigmas) == 2 and pytest.approx(sigmas[0]) == 80 and 0.002 < sigmas[1] < 80
        assert find_figures(finished / f"{name}.safetensors", plan(model, "multistep", sigmas=sigmas), 12)
    assert f"--init {finished / NAMES[0]}.safetensors --teacher" in (finished / f"{NAMES[1]}.md").read_text()


def test_killed_after_everything_it_does_it_ends_the_same(finished, tmp_path, monkeypatch):
    monkeypatch.setenv("CMLAB_CACHE", str(finished / "cache"))
    for module, function in ((session, "train"), (chain, "keep_facts"), (chain, "keep_figures"), (chain, "write_card")):
        real = getattr(module, function)

        def killing(*args, real=real, **options):
            files = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
            done = real(*args, **options)
            if real.__name__ != "train" or files != {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}:
                raise Killed(real.__name__)
            return done

        monkeypatch.setattr(module, function, killing)
    killed = []
    while True:
        try:
            assert main([*TOY, "--out", str(tmp_path)]) == 0
            break
        except Killed as kill:
            killed.append(str(kill))
    student = ["train", "keep_facts", "keep_figures", "keep_figures"]
    assert killed == ["train", "keep_figures", "keep_figures", *student, *student, *["write_card"] * 3]
    for name in NAMES:
        (a, *mine), (b, *theirs) = state(tmp_path, name), state(finished, name)
        assert mine == theirs and a.keys() == b.keys() and all((a[k] == b[k]).all() for k in a)


def test_a_finished_chain_is_left_alone(finished, capsys, monkeypatch):
    monkeypatch.setenv("CMLAB_CACHE", str(finished / "cache"))
    before = {path: path.stat().st_mtime_ns for path in finished.iterdir() if path.suffix != ".json"}
    assert main([*TOY, "--out", str(finished)]) == 0
    assert before == {path: path.stat().st_mtime_ns for path in finished.iterdir() if path.suffix != ".json"}
    assert "digits-color-cd.safetensors: multistep, 2 steps: FD-cls" in capsys.readouterr().out


def test_stopped_by_a_signal_it_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def stopped(*args):
        raise Interrupted(143, "stopped at step 1, saved. Continue with: cmlab train digits-color-edm --resume")

    monkeypatch.setattr(session, "train", stopped)
    assert main([*TOY, "--out", str(tmp_path)]) == 143
    err = capsys.readouterr().err.strip()
    assert err == f"cmlab: stopped at step 1, saved. Continue with: cmlab {' '.join(TOY)} --out {tmp_path}"


def test_stopped_while_a_card_is_written_it_leaves_no_part_of_one_and_says_how_to_go_on(finished, monkeypatch, capsys):
    monkeypatch.setenv("CMLAB_CACHE", str(finished / "cache"))
    (finished / f"{NAMES[2]}.md").unlink()
    monkeypatch.setattr(chain, "write_card", lambda _, out, **k: write_whole(out, lambda _: os.kill(os.getpid(), signal.SIGTERM)))
    assert main([*TOY, "--out", str(finished)]) == 128 + signal.SIGTERM
    assert capsys.readouterr().err.strip() == f"cmlab: stopped by SIGTERM. Continue with: cmlab {' '.join(TOY)} --out {finished}"
    assert not list(finished.glob("*.part"))
    monkeypatch.undo()
    monkeypatch.setenv("CMLAB_CACHE", str(finished / "cache"))
    assert main([*TOY, "--out", str(finished)]) == 0 and (finished / f"{NAMES[2]}.md").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--resume"], "always goes on"),
        (["--cd.init", "x"], "--init: a chain decides that itself"),
        (["--stepz", "3"], "Unrecognized options: --stepz, 3 Perhaps you meant: --steps"),
        (["--ict.loss.pairs.q", "3"], "Unrecognized options: --loss.pairs.q"),
        (["--ect.steps", "3"], "--ect.steps: the stages are edm, cd, ict"),
        (["--cd.out", "elsewhere"], "one --out"),
        (["--cd.data", "digits-color:1,2"], "learn the same data"),
        (["--n", "five"], "--n: it takes a whole number, got 'five'"),
        (["--n", "5"], "must be at least 10"),
        (["--data", "two-moons"], "no classifier that knows two-moons"),
    ],
)
def test_options_that_a_chain_cannot_use_are_errors(words, message, tmp_path, capsys):
    code, err = main([*TOY, "--out", str(tmp_path), *words]), capsys.readouterr().err
    assert (code == 1 and message in err and err.count("\n") == 1) or (code == 2 and message in said(err))
    assert not list(tmp_path.iterdir())


def test_other_options_than_at_the_start_are_errors(finished, tmp_path, capsys):
    assert main([*TOY, "--out", str(finished), "--seed", "1"]) == 1
    assert "began digits-color-edm with --seed 0, not 1" in capsys.readouterr().err
    checkpoints.save(tmp_path / "digits-color-edm.safetensors", checkpoints.load("digits-color-edm")[0], {"preset": "other"})
    assert main([*TOY, "--out", str(tmp_path)]) == 1
    assert "is not digits-color-edm on digits-color:3,8" in capsys.readouterr().err
    assert main(["train", "digits-colour-chain"]) == 1
    assert "unknown chain 'digits-colour-chain': did you mean 'digits-color-chain'?" in capsys.readouterr().err


@pytest.mark.parametrize("name", CHAINS)
def test_chains_are_of_presets_that_follow_each_other(name, capsys):
    first, *students = stages_of(name, ["--seed", "5", "--cd.batch", "7"])
    assert not PRESETS[first.name].consistency and all(PRESETS[s.name].consistency for s in students)
    assert all(stage.preset.seed == 5 for stage in (first, *students))
    assert [s.preset.batch == 7 for s in (first, *students)] == [s.name.endswith("-cd") for s in (first, *students)]
    for student in students:
        assert PRESETS[student.name].init == first.name and student.preset.init == str(first.file)
        assert student.preset.teacher == (str(first.file) if PRESETS[student.name].teacher else "")
    assert main(["train", name, "--help"]) == 0
    out = capsys.readouterr().out
    assert all(stage in out for stage in CHAINS[name]) and json.dumps(out)
