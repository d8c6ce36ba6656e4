"""Runs that go on otherwise than they began: longer, shorter, at another rate; and those that went astray."""

import csv
import json
import math
import shlex
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from cmlab.commands.main import main
from cmlab.formats import checkpoints
from cmlab.training.states import FAR, Curves, RunFolder, flatten

EDM = ["8gaussians-edm", "--batch", "8", "--network.width", "8", "--no-half"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def train(*words: str) -> int:
    return main(["train", *words])


def weights(name: str = "runs/8gaussians-edm.safetensors") -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in checkpoints.load(name)[0].parameters()])


def about(name: str = "runs/8gaussians-edm.safetensors") -> dict:
    return checkpoints.read_meta(name)["about"]


def states(name: str = "8gaussians-edm") -> list[int]:
    return [int(path.stem[-8:]) for path in RunFolder(Path("runs") / name).states()]


# --- longer and shorter --------------------------------------------------------------------------------------------------


# Finished at 20 steps, then 40; a constant rate goes on from the end, wsd from where it began to fall.
@pytest.mark.parametrize(("schedule", "kept", "start"), [("constant", [20], 20), ("wsd", [20, 17], 17)])
def test_a_finished_run_goes_on_to_the_bits_of_a_longer_one(schedule, kept, start, capsys):
    words = [*EDM, "--lr-schedule", schedule]
    assert train(*words, "--steps", "20") == 0 and states() == kept
    capsys.readouterr()
    assert train("8gaussians-edm", "--resume", "--steps", "40") == 0  # all other options are those of the run
    out = capsys.readouterr().out
    assert f"continuing at step {start} of 40" in out and "--steps 40 (it was 20)" in out and "not the same run" not in out
    assert train(*words, "--steps", "40", "--name", "whole") == 0
    assert torch.equal(weights(), weights("runs/whole.safetensors"))
    assert about()["history"] == [{"step": start, "steps": [20, 40]}]
    assert about()["images"] == 320 and len(about()["loss_curve"]) == 40


def test_a_run_ends_earlier_at_the_bits_of_a_shorter_one(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("cmlab.training.session._ModelRun.finish", lambda *_: 1 / 0)  # killed before its result is written
        with pytest.raises(ZeroDivisionError):
            train(*EDM, "--lr-schedule", "wsd", "--steps", "20", "--save-every", "4", "--keep", "9")
    assert train("8gaussians-edm", "--resume", "--steps", "10") == 0
    assert train(*EDM, "--lr-schedule", "wsd", "--steps", "10", "--name", "whole") == 0
    assert torch.equal(weights(), weights("runs/whole.safetensors"))
    assert states() == [10, 9]  # those of the longer way are gone


@pytest.mark.parametrize("words", [["--lr-schedule", "cosine"], ["8gaussians-ect", "--lr-schedule", "constant", "--init="]])
def test_it_is_said_where_a_longer_run_is_another_one(words, capsys):
    run = [*EDM, *words] if words[0].startswith("-") else [words[0], *EDM[1:], *words[1:]]
    assert train(*run, "--steps", "10") == 0
    assert train(run[0], "--resume", "--steps", "20") == 0
    assert "is not the same run as one that began with --steps 20" in capsys.readouterr().out


def test_fewer_steps_than_were_made_are_refused(capsys):
    assert train(*EDM, "--lr-schedule", "constant", "--steps", "10") == 0
    assert train("8gaussians-edm", "--resume", "--steps", "5") == 1
    assert "is of a later step than --steps 5: give at least as many" in capsys.readouterr().err


def test_nothing_is_kept_where_nothing_should_be():
    assert train(*EDM, "--steps", "10", "--lr-schedule", "wsd", "--keep", "0") == 0
    assert states() == []


def test_a_way_that_was_left_is_not_gone_on_with(monkeypatch):
    # Longer from step 9, and stopped at step 12: step 20 of the way before must not come next.
    assert train(*EDM, "--steps", "20", "--lr-schedule", "wsd") == 0
    assert train("8gaussians-edm", "--resume", "--steps", "40", "--save-every", "19") == 0
    assert states() == [40, 33]


# --- another rate ----------------------------------------------------------------------------------------------------------


def test_another_rate_from_here_on_is_told_and_remembered(capsys):
    assert train(*EDM, "--lr-schedule", "constant", "--steps", "10") == 0
    assert train("8gaussians-edm", "--resume", "--steps", "20", "--lr", "1e-4", "--clip", "1") == 0
    assert "--lr 0.0001 (it was 0.002)" in (said := capsys.readouterr().out) and "--clip 1.0 (it was 0.0)" in said
    assert about()["history"] == [{"step": 10, "steps": [10, 20], "lr": [0.002, 0.0001], "clip": [0.0, 1.0]}]
    assert about()["options"]["lr"] == 1e-4
    rows = table()
    assert {row["lr"] for row in rows[:10]} == {"0.002"} and {row["lr"] for row in rows[10:]} == {"0.0001"}
    assert train("8gaussians-edm", "--resume", "--steps", "30") == 0  # the rate stays what it became
    assert about()["options"]["lr"] == 1e-4 and len(about()["history"]) == 2


@pytest.mark.parametrize(("option", "value"), [("--batch", "9"), ("--seed", "4"), ("--network.width", "9"), ("--ema", "0.5")])
def test_what_a_run_has_become_cannot_change(option, value, capsys):
    assert train(*EDM, "--steps", "4") == 0
    assert train("8gaussians-edm", "--resume", "--steps", "8", option, value) == 1
    err = capsys.readouterr().err
    assert f"was saved with {option} " in err and "pass --overwrite" in err


def test_a_finished_run_says_what_another_rate_takes(capsys):
    assert train(*EDM, "--steps", "4") == 0
    assert train("8gaussians-edm", "--resume", "--lr", "1e-4") == 1
    assert "was finished with --lr 0.002, not 0.0001: give more than --steps 4 as well" in capsys.readouterr().err


def test_without_states_a_finished_run_is_known_by_its_result(capsys):
    assert train(*EDM, "--steps", "4", "--keep", "0") == 0
    assert train("8gaussians-edm", "--resume") == 0  # its batch and width are those of the result
    assert "this run is finished" in capsys.readouterr().out
    assert train("8gaussians-edm", "--resume", "--steps", "8") == 1
    assert "with --steps 4, not 8: none of its states is there to go on from" in capsys.readouterr().err


def test_another_network_is_refused_by_its_name(capsys):
    assert train(*EDM, "--steps", "4") == 0
    assert train("8gaussians-edm", "--resume", "--steps", "8", "--network", "unet") == 1
    assert "was saved with --network mlp, not unet" in capsys.readouterr().err


def test_a_state_of_a_cmlab_with_fewer_options_says_so(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("cmlab.training.loop.flatten", lambda o: {k: v for k, v in flatten(o).items() if k != "loss.scalings"})
        assert train(*EDM, "--steps", "4") == 0
    assert train("8gaussians-edm", "--resume", "--steps", "8") == 1
    err = capsys.readouterr().err
    assert "is of a cmlab without the option --loss.scalings: finish the run with that cmlab" in err
    assert states() == [4]


def test_a_progressive_distillation_ends_where_its_stages_do(capsys):
    pd = ["two-moons-pd", "--init=", "--teacher", "oracle", "--batch", "8", "--network.width", "8"]
    assert train(*pd, "--steps", "14") == 0
    assert train("two-moons-pd", "--resume", "--steps", "28") == 1
    assert "of 28 steps is in stage 5 at step 14, this one in stage 7" in capsys.readouterr().err
    assert states("two-moons-pd") == [14]


def test_how_a_run_is_looked_after_goes_on_too():
    assert train(*EDM, "--steps", "4", "--save-every", "3", "--grid-every", "4", "--keep", "5") == 0
    assert train("8gaussians-edm", "--resume", "--steps", "8", "--grid-every", "0") == 0
    config = tomllib.loads(Path("runs/8gaussians-edm/config.toml").read_text())
    assert (config["save_every"], config["keep"], config.get("grid_every")) == (3, 5, None)
    assert [p.name for p in Path("runs/8gaussians-edm").glob("*.png")] == ["samples-00000004.png"]


@pytest.mark.parametrize("words", [["--accumulate", "3"], ["--augment", "0.1"], ["--channels-last"], ["--label-dropout", "0.1"]])
def test_what_is_refused_overwrites_nothing(words):
    assert train(*EDM, "--steps", "4") == 0
    before = {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}
    assert train(*EDM, "--steps", "4", "--overwrite", *words) == 1
    assert {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()} == before


# --- astray ----------------------------------------------------------------------------------------------------------------


def test_a_loss_is_astray_far_above_its_first_value():
    curves = Curves(5000)  # whose first pair comes after 25 steps
    assert curves.astray(1e9) == 0  # nothing to compare with yet
    curves.see(1, 2.0, 0)
    curves.see(2, 1e6, 0)
    assert curves.astray(2.0 * FAR) == 0 and curves.astray(2.1 * FAR) == pytest.approx(1.05 * FAR)


def test_a_stage_has_another_first_loss():
    curves = Curves(100)
    for step, loss, stage in ((1, 0.001, 0), (2, 0.0005, 0), (3, 0.2, 1), (4, 0.1, 2), (5, math.nan, 2)):
        curves.see(step, loss, int(step == 5), stage)
    assert curves.first == 0.2 and curves.astray(1.9) == 0 and curves.astray(2.1) == pytest.approx(10.5)
    again = Curves(**asdict(curves))
    again.see(6, 0.3, 1, 2)
    assert again.first == 0.2


def test_the_stages_of_a_distillation_are_not_astray(capsys):
    # One step of the last student is harder than 64 of the first by far more than ten times.
    assert train("digits-pd", "--batch", "16", "--steps", "42") == 0
    said = capsys.readouterr()
    assert "Next: cmlab sample" in said.out and "times what" not in said.err and states("digits-pd") == [42]
    assert float(table("digits-pd")[-1]["loss"]) > FAR * float(table("digits-pd")[0]["loss"])


def test_a_run_that_goes_astray_is_told_of_and_its_states_are_not_saved(capsys):
    assert train(*EDM, "--steps", "30", "--optimizer", "adam", "--lr", "5", "--lr-schedule", "constant", "--save-every", "1") == 0
    said = capsys.readouterr()
    assert "times what it was at first; no state is saved while it is so" in said.err
    assert "Its loss is" in said.out and "--lr 2.5" in said.out and "cmlab sample" not in said.out
    assert max(states()) < 30
    losses = {int(row["step"]): float(row["loss"]) for row in table()}
    assert losses[max(states())] <= FAR * losses[1] < losses[30]


def test_the_way_back_that_is_named_works(monkeypatch, capsys):
    assert train(*EDM, "--steps", "5", "--lr-schedule", "constant") == 0
    assert train("8gaussians-edm", "--resume", "--steps", "60", "--lr", "1e30") == 1
    err = capsys.readouterr().err
    assert "not finite" in err and "The state of step 5 is sound" in err and states() == [5]
    command = shlex.split(err.partition("Continue with: cmlab ")[2])
    assert command[-3:] == ["--resume", "--lr", "5e+29"]
    assert main([*command[:-1], "1e-3"]) == 0
    assert torch.isfinite(weights()).all()


def test_without_a_sound_state_the_way_is_to_begin_again(capsys):
    assert train(*EDM, "--steps", "60", "--lr", "1e30", "--optimizer", "adam") == 1
    assert "begin again with a lower rate, such as cmlab train 8gaussians-edm" in capsys.readouterr().err
    assert states() == []


def test_the_first_step_counts_also_of_a_long_run(capsys):
    assert train(*EDM, "--steps", "3000", "--lr", "1e30", "--optimizer", "adam") == 1
    assert table()[0]["step"] == "1" and states() == []


def test_the_way_back_of_a_finished_run_works(capsys):
    words = ["--name", "my run", "--steps", "30", "--optimizer", "adam", "--lr-schedule", "constant"]
    assert train(*EDM, *words, "--lr", "5") == 0
    command = shlex.split(capsys.readouterr().out.partition("such as cmlab ")[2])
    assert command[-3:] == ["--lr", "2.5", "--overwrite"]
    assert main([*command[:-2], "2e-3", "--overwrite"]) == 0
    assert "Next: cmlab sample 'runs/my run.safetensors'" in capsys.readouterr().out


@pytest.mark.parametrize("lr", ["inf", "nan", "-1"])
def test_a_rate_that_is_none_is_refused(lr, capsys):
    assert train(*EDM, f"--lr={lr}") == 1
    assert f"lr, is a number of at least 0: got {float(lr)}" in capsys.readouterr().err


# --- names, options as a file, the log -------------------------------------------------------------------------------------


def table(name: str = "8gaussians-edm") -> list[dict[str, str]]:
    return list(csv.DictReader(Path(f"runs/{name}/log.csv").read_text().splitlines()))


def test_a_run_has_a_name_of_its_own(capsys):
    assert train(*EDM, "--steps", "4", "--name", "mine") == 0
    assert sorted(p.name for p in Path("runs").iterdir()) == ["mine", "mine.safetensors"]
    assert about("runs/mine.safetensors")["preset"] == "8gaussians-edm"
    assert main(["sample", "mine", "--n", "2", "--steps", "2", "--out", "a.png"]) == 0
    assert train("two-moons-edm", "--name", "mine", "--resume") == 1
    assert "mine" in capsys.readouterr().err


@pytest.mark.parametrize("name", [" ", "a ", "a\nb", "a/b", ".a", "-a", "a.safetensors"])
def test_a_name_is_plain(name, capsys):
    assert train(*EDM, f"--name={name}") == 1
    assert "give a plain name without .safetensors" in capsys.readouterr().err and not Path("runs").exists()


@pytest.mark.parametrize(("preset", "name", "told"), [("rings-edm", "digits-edm", True), ("two-moons-edm", "two-moons-edm", False)])
def test_a_name_of_a_bundled_model_is_told(preset, name, told, capsys):
    assert train(preset, *EDM[1:], "--steps", "2", "--name", name) == 0
    assert ("will stand before the bundled model" in capsys.readouterr().out) == told


def test_the_options_that_were_resolved_are_the_same_run():
    words = [
        "--steps",
        "6",
        "--emas",
        "0.5",
        "--loss.density.mean",
        "-1",
        "--name",
        "one",
        "--network",
        "mlp",
        "--precision",
        "auto",
    ]
    assert train(*EDM, *words) == 0
    config = tomllib.loads(Path("runs/one/config.toml").read_text())
    assert config["preset"] == "8gaussians-edm" and config["name"] == "one" and config["emas"] == [0.5]
    assert config["network"]["width"] == 8 and config["network"]["type"] == "mlp" and config["loss"]["density"]["mean"] == -1.0
    assert config["precision"] in ("float32", "bf16")
    assert train("--config", "runs/one/config.toml", "--name", "two") == 0
    assert torch.equal(weights("runs/one.safetensors"), weights("runs/two.safetensors"))
    assert about("runs/one.safetensors")["options"] == about("runs/two.safetensors")["options"]
    assert train("--config", "runs/one/config.toml", "--name", "three", "--seed", "1") == 0
    assert not torch.equal(weights("runs/one.safetensors"), weights("runs/three.safetensors"))


@pytest.mark.parametrize("preset", ["digits-ict", "8gaussians-cd", "8gaussians-sct", "8gaussians-pd", "digits-classifier"])
def test_every_kind_of_run_writes_options_that_are_read(preset):
    words = [preset, "--steps", "4", "--batch", "4"] + ([] if "classifier" in preset else ["--init=", "--no-half"])
    words += ["--teacher", "oracle"] if preset in ("8gaussians-cd", "8gaussians-pd") else []
    assert train(*words) == 0
    assert train("--config", f"runs/{preset}/config.toml", "--name", "again") == 0
    one, two = (checkpoints_header(name) for name in (preset, "again"))
    assert one["options"] == two["options"]


def checkpoints_header(name: str) -> dict:
    from safetensors import safe_open

    with safe_open(f"runs/{name}.safetensors", framework="pt") as file:
        (meta,) = file.metadata().values()
    return json.loads(meta)["about"] if "about" in json.loads(meta) else json.loads(meta)


@pytest.mark.parametrize(
    ("text", "words", "message"),
    [
        ("preset = ", [], "is not TOML"),
        ("steps = 3", [], "names no preset"),
        ("preset = 3", [], "preset is the name of one"),
        ('preset = "digits-edm"', ["8gaussians-edm"], "is of the preset digits-edm, not of 8gaussians-edm"),
        ('preset = "8gausians-edm"', [], "8gaussians-edm"),
        (None, [], "no file of options at c.toml"),
    ],
)
def test_a_file_of_options_that_is_none(text, words, message, capsys):
    if text is not None:
        Path("c.toml").write_text(text)
    assert train(*words, "--config", "c.toml") == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--configs", "c.toml"], 2, "--configs"),
        (["--config", "c.toml", "--config=d.toml"], 1, "--config names one file"),
        (["--config="], 1, "--config needs the name of a file"),
        (["--config"], 1, "--config needs the name of a file"),
    ],
)
def test_one_file_of_options_is_named(words, status, message, capsys):
    Path("c.toml").write_text("steps = 2")
    assert train("8gaussians-edm", *words) == status
    said = capsys.readouterr()
    assert message in said.out + said.err


def test_a_file_of_options_may_begin_with_a_mark():
    Path("c.toml").write_bytes(b'\xef\xbb\xbfpreset = "8gaussians-edm"\nsteps = 2\nbatch = 2\n')
    assert train("--config", "c.toml") == 0


def test_the_file_of_a_run_that_fails_is_there_again():
    assert train(*EDM, "--steps", "1000", "--lr", "1e30", "--optimizer", "adam") == 1
    for _ in range(2):
        assert train("--config", "runs/8gaussians-edm/config.toml", "--overwrite") == 1


def test_an_unknown_option_of_a_file_is_named(capsys):
    Path("c.toml").write_text('preset = "8gaussians-edm"\nstepps = 3\n')
    assert train("--config", "c.toml") == 2
    said = capsys.readouterr()
    assert "--stepps" in said.out + said.err and "--steps" in said.out + said.err


def test_the_log_is_a_table_that_goes_on_where_its_run_does():
    assert train(*EDM, "--lr-schedule", "wsd", "--steps", "20") == 0
    rows = table()
    assert [int(row["step"]) for row in rows] == list(range(1, 21))
    assert [list(map(float, pair)) for pair in about()["loss_curve"]] == [
        [int(row["step"]), float(f"{float(row['loss']):.4g}")] for row in rows
    ]
    assert all(float(row["images_per_s"]) > 0 and row["skipped"] == "0" and row["fd"] == "" for row in rows)
    assert train("8gaussians-edm", "--resume", "--steps", "40") == 0
    assert [int(row["step"]) for row in table()] == list(range(1, 41))


def test_the_log_has_each_step_once(capsys):
    assert train(*EDM, "--steps", "4") == 0
    log = Path("runs/8gaussians-edm/log.csv")
    Path("runs/8gaussians-edm.safetensors").unlink()
    log.write_text(log.read_text() + "note,,,,,\n5,1")  # written by hand, and cut short
    assert train("8gaussians-edm", "--resume") == 0
    assert [row["step"] for row in table()] == ["1", "2", "3", "4"]
