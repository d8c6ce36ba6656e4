"""Files are written whole or not at all, by whoever and how many; paths are read in one way."""

import multiprocessing
import os
import stat
import threading
from pathlib import Path

import pytest

from cmlab.base.files import beside, locked, user_path, write_whole


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_bytes_and_writers_arrive_in_new_folders_and_nothing_else_does(tmp_path):
    a = write_whole(tmp_path / "new" / "a.bin", b"12")
    b = write_whole(str(tmp_path / "new" / "b.bin"), lambda file: file.write(b"34"))
    assert (a.read_bytes(), b.read_bytes(), names(a.parent)) == (b"12", b"34", ["a.bin", "b.bin"])


def test_a_failure_leaves_what_was_there(tmp_path):
    path = write_whole(tmp_path / "a.bin", b"old")

    def fails(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fails)
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, function):
    path = write_whole(tmp_path / "a.bin", b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, function, full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.bin"]


def test_the_file_is_flushed_before_it_is_renamed_and_the_folder_after(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (done.append(stat.S_ISDIR(os.fstat(file).st_mode)), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    write_whole(tmp_path / "a.bin", b"1")
    assert done == [False, "rename", True]


def test_the_file_is_read_by_those_who_may_read_new_files_here(tmp_path):
    (tmp_path / "ordinary").write_bytes(b"")
    write_whole(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_path_beside_suits_libraries_that_open_files_themselves(tmp_path):
    with beside(tmp_path / "a.bin") as part:
        assert part.parent == tmp_path and part.read_bytes() == b""
        part.write_bytes(b"1")
        part.chmod(0o600)  # as some of them do
        assert not (tmp_path / "a.bin").exists()
    assert names(tmp_path) == ["a.bin"]
    (tmp_path / "ordinary").write_bytes(b"")
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_several_may_write_one_file_at_once(tmp_path):
    """Both are in the middle of it at the same time; each finishes its own."""
    meet = threading.Barrier(2, timeout=60)

    def write(letter: bytes):
        def half_and_half(file):
            file.write(500 * letter)
            meet.wait()
            file.write(500 * letter)

        write_whole(tmp_path / "a.bin", half_and_half)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.bin").read_bytes() in (1000 * b"a", 1000 * b"b") and names(tmp_path) == ["a.bin"]


def test_a_folder_or_a_device_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(OSError, match="a folder or a device is in its place"):
            write_whole(tmp_path / name, b"1")
    assert names(tmp_path) == ["folder", "pipe"]


def test_a_long_name_is_a_name(tmp_path):
    assert names(write_whole(tmp_path / (200 * "x" + ".png"), b"1").parent) == [200 * "x" + ".png"]


# --- paths ---------------------------------------------------------------------------------------------------------------


def test_home_is_expanded_and_the_relative_stays_relative(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a.png") == tmp_path / "a.png"
    assert str(user_path("runs/a.png")) == "runs/a.png" and user_path(tmp_path) == tmp_path
    assert str(user_path("~nobody-of-that-name/a")) == "~nobody-of-that-name/a"


def test_a_wrong_path_is_named_with_the_way_out(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(FileNotFoundError, match=f"^no mask at {tmp_path}/none: draw one$"):
        user_path(tmp_path / "none", "file", what="mask", way_out="draw one")
    with pytest.raises(ValueError, match=f"^{tmp_path} is a folder, not a mask: check the path$"):
        user_path(tmp_path, "file", what="mask")
    assert user_path(tmp_path) == tmp_path and user_path(tmp_path / "a.png", "file") == tmp_path / "a.png"


def _take_turns(folder: str, times: int) -> None:
    for _ in range(times):
        with locked(Path(folder) / "lock"):
            mark = Path(folder) / "inside"
            mark.touch(exist_ok=False)  # another one inside is an error
            mark.unlink()


def test_of_many_that_want_a_lock_one_has_it_and_no_file_is_left(tmp_path):
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_take_turns, args=(str(tmp_path), 300)) for _ in range(6)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0] * 6
    assert not list(tmp_path.iterdir())


def test_a_lock_that_another_holds_is_told_and_one_on_a_folder_leaves_it(tmp_path):
    for path in (tmp_path / "lock", tmp_path):
        with locked(path) as first, locked(path, wait=False) as second:
            assert (first, second) == (True, False)
    with locked(tmp_path / "none" / "lock") as nowhere:  # nothing can be written there: others will tell
        assert nowhere
    assert list(tmp_path.parent.iterdir()) and not list(tmp_path.iterdir())
