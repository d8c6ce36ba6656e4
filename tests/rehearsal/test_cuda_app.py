"""The app's handlers on a pretended GPU: one device in every operation, from the press to the pictures.

Not `interpolate`: slerp asks whether a noise is zero, and what is read of a pretended device is always true.
"""

import pytest
from pretend import rehearse

pytest.importorskip("gradio", reason="the app is an extra: pip install cmlab[app]")
from cmlab.app import handlers
from cmlab.base.registry import EDITS


def handled(name: str, **options):
    def case(device):
        handlers.DEVICE = "cuda:0"
        *_, last = getattr(handlers, name)(data="digits-color", **options)
        return last

    return case


CASES = {
    ("sample", ""): handled("sample", count=2, edm_steps=2, student_steps=2),
    **{("edit", task): handled("edit", task=task, steps=2, class_name="3") for task in EDITS},
}


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("pictures")))
        return rehearse(CASES)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_a_handler_meets_one_device(used, case):
    assert used[case].error == ""
    pictures = [part for part in used[case].result if isinstance(part, str) and part.endswith(".png")]
    assert len(pictures) == {"sample": 3, "edit": 2}[case[0]]
    if case[0] == "sample":  # what is shown of a step, and nothing else, is copied to the host
        assert not [w for w in used[case].waits if w.startswith("read") and "view.py" not in w]
