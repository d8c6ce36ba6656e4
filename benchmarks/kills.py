"""Kill a small training at random instants, resume it each time, and compare its weights with those of a run that nobody disturbed.

    python benchmarks/kills.py --kills 50 --folder runs/kills

Each life of the run is its own process. It saves every third step, and is ended by SIGKILL up to 0.1 s after its first save, which
is some saves later; every fifth life ends while it writes a state. What is counted: files under a state's name that cannot be read
(there must be none), and whether the final weights are equal to the bit, and the loss curves to the digits that they are kept with.
After each kill the count is written to FOLDER/kills.json, from which the same command goes on.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from cmlab.formats import checkpoints
from cmlab.training.states import RunFolder, read_state

PRESET = "8gaussians-ct"  # a target average, two schedules: much to get wrong
FILES = [f"{PRESET}{tail}.safetensors" for tail in ("", "-ema-0.5")]
PATIENCE = 600.0  # seconds that a life may take until its first save, on a busy machine


@dataclass
class Report:
    """What came of it."""

    seed: int
    steps: int
    kills: int = 0
    resumed_at: list[int] = field(default_factory=list)
    states_seen: int = 0
    half_written: int = 0
    unreadable: int = 0
    equal: bool = False
    seconds: float = 0.0


def command(out: Path, steps: int) -> list[str]:
    words = [PRESET, "--steps", str(steps), "--batch", "16", "--network.width", "16", "--emas", "0.5", "--out", str(out)]
    return [sys.executable, "-m", "cmlab", "train", *words, "--save-every", "3", "--device", "cpu", "--resume"]


def parts(out: Path) -> list[Path]:
    """Files of states that are not written to their end."""
    return list((out / PRESET).glob("state-*.part"))


def life(out: Path, steps: int, ready: Callable[[], bool] | None) -> bool:
    """One process; killed as soon as it is ``ready``. True if it finished before; raises RuntimeError if it failed by itself."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command(out, steps), env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL, stderr=errors
        )
        killed = False
        try:
            if ready is None:
                process.wait()
            while process.poll() is None:
                if ready is not None and ready():
                    process.send_signal(signal.SIGKILL)
                    killed = process.wait() == -signal.SIGKILL
                time.sleep(0.0005)
        finally:
            process.kill()
            process.wait()
        if process.returncode == 0 or killed:
            return not killed
        errors.seek(0)
        raise RuntimeError(f"the run failed by itself: {errors.read().decode(errors='replace')[-2000:]}")


def moment(out: Path, wait: float, writing: bool) -> Callable[[], bool]:
    """Says when to kill: ``wait`` seconds after the first new state, and then perhaps not before a state is being written."""
    before = {p.name for p in RunFolder(out / PRESET).states()}
    begin, saved = time.monotonic(), [0.0]

    def ready() -> bool:
        now = time.monotonic()
        if not saved[0]:
            if {p.name for p in RunFolder(out / PRESET).states()} - before:
                saved[0] = now
            elif now - begin > PATIENCE:
                raise RuntimeError(f"no state in {PATIENCE:.0f} s")
            time.sleep(0.005)  # to look all the time would slow down what one waits for
            return False
        return now - saved[0] >= wait and (not writing or bool(parts(out)))

    return ready


def kill_and_resume(folder: Path, kills: int, seed: int, steps: int, progress=lambda text: None) -> Report:
    """Two runs in ``folder``: one left alone, one killed until ``kills`` times. Goes on where an earlier call was stopped."""
    start, log, out = time.perf_counter(), folder / "kills.json", folder / "killed"
    report = Report(**json.loads(log.read_text())) if log.is_file() else Report(seed, steps)
    if (report.seed, report.steps) != (seed, steps):
        raise ValueError(f"{log} is of --seed {report.seed} --steps {report.steps}: give the same, or another --folder")
    before = report.seconds
    if not (folder / "whole" / FILES[0]).is_file():
        life(folder / "whole", steps, None)
    while report.kills < kills:
        draw = random.Random(f"{seed} {report.kills}")
        if life(out, steps, moment(out, draw.uniform(0, 0.1), report.kills % 5 == 4)):
            raise RuntimeError(f"the run finished after {report.kills} kills: give it more steps than {steps}, in another --folder")
        report.kills += 1
        report.half_written += len(parts(out))
        for path in RunFolder(out / PRESET).states():
            report.states_seen += 1
            try:
                read_state(path)
            except ValueError:
                report.unreadable += 1
        report.resumed_at.append(RunFolder(out / PRESET).newest()[0].facts["step"])
        report.seconds = before + time.perf_counter() - start
        beside = log.with_suffix(".part")
        beside.write_text(json.dumps(asdict(report)))
        beside.replace(log)
        progress(f"kill {report.kills}: resumes at step {report.resumed_at[-1]}")
    life(out, steps, None)
    pairs = [[checkpoints.load(side / name) for side in (folder / "whole", out)] for name in FILES]
    report.equal = all(
        all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
        and torch.allclose(*(torch.tensor(meta["about"]["loss_curve"]) for meta in (one, two)), rtol=2e-3)
        for (a, one), (b, two) in pairs
    )
    report.seconds = before + time.perf_counter() - start
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0, help="by default 100 for each kill")
    parser.add_argument("--folder", type=Path, help="where the runs and the count are kept; by default a temporary one")
    o = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # takes the process under test with it
    with tempfile.TemporaryDirectory() as temporary:
        folder = o.folder or Path(temporary)
        report = kill_and_resume(folder, o.kills, o.seed, o.steps or 100 * o.kills, print)
    print(report)
    return 0 if report.equal and not report.unreadable else 1


if __name__ == "__main__":
    sys.exit(main())
