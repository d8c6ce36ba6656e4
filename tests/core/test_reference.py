"""cmlab against numbers computed with the original codes.

CMLAB_REFERENCE_DIR names a folder of reference files; the default is the part that is committed in tests/reference. Files and
cases are read from the folder: other seeds, shapes and settings need no change here, a file that nobody knows fails.
"""

import numpy as np
import pytest
from golden import codes, originals
from golden.base import DEVIATIONS, FOLDER, HERE, Check, known_file, open_golden, relative_error, runner_of

FILES = sorted(FOLDER.glob("*.npz"))
CASES = [case for path in FILES for case in open_golden(path).cases]

assert codes  # importing it registers the runners


def test_there_are_reference_files():
    assert FILES, f"no .npz files in {FOLDER}: CMLAB_REFERENCE_DIR must name a folder of reference files"


@pytest.mark.parametrize(
    "path", sorted(p for p in FOLDER.iterdir() if p.is_file()) if FOLDER.is_dir() else [], ids=lambda p: p.name
)
def test_every_file_is_known(path):
    if path.name == "README.md":
        return
    assert path.suffix == ".npz" and known_file(path.stem), f"nobody knows what to do with {path.name}: write a runner for it"


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.file.stem}/{c.name}")
def test_case(case, record_property):
    runner = runner_of(case)
    assert runner is not None, f"no runner for {case.fn} in {case.file.path.name}"
    missing = set(case.names("out"))
    assert missing, "a case without expected outputs proves nothing"
    for item in runner(case):
        assert item.name in missing, f"{item.name} is not an output of this case, or was answered twice"
        missing.discard(item.name)
        if not isinstance(item, Check):
            assert item.deviation in DEVIATIONS
            continue
        got, want = item.got.detach(), case.tensor("out", item.name)
        if item.rows is not None:
            assert item.deviation in DEVIATIONS
            got, want = got[item.rows], want[item.rows]
        error = relative_error(got, want)
        record_property("relative_error", (case.file.stem, error, f"{case.name}/{item.name}"))
        assert error <= item.tolerance, f"{item.name}: relative error {error:.2e}, allowed {item.tolerance:.0e}"
    assert not missing, f"outputs that the runner does not answer: {sorted(missing)}"


def test_readme_lists_every_deviation():
    text = (HERE / "README.md").read_text()
    assert [key for key in DEVIATIONS if f"`{key}`" not in text] == []


@pytest.mark.parametrize("stem", originals.FILES)
def test_files_that_are_computed_here_hold_what_is_computed(stem):
    arrays, meta = originals.arrays_of(stem)
    file = open_golden(HERE / f"{stem}.npz")
    assert file.meta == meta
    assert set(file.arrays.files) == {*arrays, "meta"}
    for name, value in arrays.items():
        np.testing.assert_allclose(file.arrays[name], value, rtol=1e-10, atol=1e-10, err_msg=name)
