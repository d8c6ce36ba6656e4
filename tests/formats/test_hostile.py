"""Hostile and broken checkpoints: one clear line each, nothing runs, nothing is written, and little memory is used.

All files are made first; one process of its own then reads them all, so that its peak memory speaks for each of them.
"""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from test_convert import SONG, SONG_SETTINGS, Part, model, snapshot

from cmlab.formats.convert import Facts, convert, write
from cmlab.formats.layouts import to_openai
from cmlab.formats.unpickle import MAGIC, MAX_READS

MEGABYTES = 500
PT_OPTIONS = ["--kind", "edm", "--image-size", "16", "--head-channels", "16"]
FILES: dict[str, Callable[[Path], Path]] = {}


def hostile(suffix: str):
    """Register a maker of one file: it gets the path, and returns None or another path to read."""

    def register(make):
        FILES[make.__name__] = lambda folder: make(path := folder / f"{make.__name__}{suffix}") or path
        return make

    return register


class Reduces:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


@lru_cache
def song():
    return model(SONG, classes=5).net.state_dict()


@lru_cache
def ordinary():
    return model()


def canary(path: Path) -> str:
    return str(path.parent / "canary")


def zipped(path: Path, data: bytes, storages: dict[str, bytes] | None = None, **options) -> None:
    """A torch zip file around any pickle."""
    with zipfile.ZipFile(path, "w", **options) as file:
        file.writestr("archive/data.pkl", data)
        for key, value in (storages or {}).items():
            file.writestr(f"archive/data/{key}", value)


def good() -> dict[str, torch.Tensor]:
    return to_openai(ordinary().net.state_dict())


def header(path: Path, **changes) -> None:
    """A cmlab file whose header says something else about its weights."""
    write(path, ordinary())
    meta = json.loads(safe_meta(path)["cmlab"]) | changes
    save_file(load_file(path), path, metadata={"cmlab": json.dumps(meta)})


def safe_meta(path: Path) -> dict[str, str]:
    content = path.read_bytes()
    return json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])["__metadata__"]


def storage(count: int, key: bytes = b"0") -> bytes:
    """Opcodes that push a float32 storage of ``count`` numbers."""
    size = count.to_bytes(8, "little", signed=True)
    return b"(U\x07storagectorch\nFloatStorage\nU\x01" + key + b"U\x03cpu\x8a\x08" + size + b"tQ"


def view(inner: bytes, size: bytes, stride: bytes) -> bytes:
    """Opcodes that rebuild a tensor of one dimension."""
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return rebuild + inner + b"K\x00" + size + b"\x85" + stride + b"\x85\x89ccollections\nOrderedDict\n)RtR"


# --- files that want something run ---------------------------------------------------------------------------------------


@hostile(".pkl")
def system_call(path):
    path.write_bytes(pickle.dumps({"ema": Reduces(os.system, f"touch {canary(path)}")}))


@hostile(".pkl")
def evaluated_text(path):
    path.write_bytes(pickle.dumps(Reduces(eval, f"open({canary(path)!r}, 'w')")))


@hostile(".pkl")
def imported_by_getattr(path):
    path.write_bytes(b"\x80\x04cbuiltins\ngetattr\n(cbuiltins\n__import__\nX\x02\0\0\0osRX\x06\0\0\0systemtR.")


@hostile(".pkl")
def protocol_0(path):
    path.write_bytes(f"cposix\nsystem\n(S'touch {canary(path)}'\ntR.".encode())


@hostile(".pkl")
def protocol_0_in_disguise(path):
    path.write_bytes(b"\x80\x02(S'touch " + canary(path).encode() + b"'\niposix\nsystem\n.")


@hostile(".pt")
def executed_in_a_zip(path):
    zipped(path, pickle.dumps({"w": Reduces(exec, f"open({canary(path)!r}, 'w')")}, 2))


@hostile(".pt")
def executed_in_an_old_stream(path):
    torch.save({"w": Reduces(exec, f"open({canary(path)!r}, 'w')")}, path, _use_new_zipfile_serialization=False)


@hostile(".pkl")
def executed_inside_a_storage(path):
    buffer = io.BytesIO()
    torch.save(Reduces(os.system, f"touch {canary(path)}"), buffer, _use_new_zipfile_serialization=False)
    path.write_bytes(pickle.dumps({"ema": Reduces(torch.storage._load_from_bytes, buffer.getvalue())}))


@hostile(".pkl")
def source_of_a_persistent_class(path):
    snapshot(path, {}, "SongUNet", SONG_SETTINGS)  # its source text would end the process


@hostile("")
def diffusers_with_a_hostile_bin(path):
    write(path, ordinary())
    (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    zipped(path / "unet" / "diffusion_pytorch_model.bin", pickle.dumps(Reduces(os.system, f"touch {canary(path)}"), 2))


@hostile(".pt")
def torchscript_program(path):
    """torch.load hands it to torch.jit.load, whatever its pickle module, and that runs the method below."""
    code = """class M(Module):
  __parameters__ = []
  __buffers__ = []
  training : bool
  _is_full_backward_hook : Optional[bool]
  def __getstate__(self: __torch__.M) -> str:
    return ""
  def __setstate__(self: __torch__.M,
    state: str) -> NoneType:
    torch.save(torch.zeros([1]), state)
    self.training = False
    return None
"""
    name = canary(path).encode()
    data = b"\x80\x02c__torch__\nM\n)\x81X" + struct.pack("<I", len(name)) + name + b"b."
    with zipfile.ZipFile(path, "w") as file:
        parts = {"data.pkl": data, "code/__torch__.py": code, "constants.pkl": b"\x80\x02).", "version": "3\n"}
        for part, content in parts.items():
            file.writestr(f"archive/{part}", content)


@hostile(".pt")
def tar_in_disguise(path):
    """Begins as an old torch file, and is a tar archive with links out of it, which torch.load would unpack."""
    start = b"\x80\x02\x8a\n" + MAGIC + b".\x80\x02M\xe9\x03."
    with tarfile.open(path, "w") as file:
        for name in (len(start) * "x", "storages"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, canary(path)
            file.addfile(link)
    content = bytearray(path.read_bytes())
    content[: len(start)] = start
    content[148:156] = b"%06o\0 " % (sum(content[:148]) + 8 * 32 + sum(content[156:512]))  # the checksum
    path.write_bytes(content)


@hostile(".pt")
def source_patch_in_an_old_stream(path):
    """torch.load would write the "source" beside a changed class's name into the working folder, and has no limit where."""
    torch.save({"w": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    pid = b"(X\x06\0\0\0modulectorch.nn.modules.linear\nLinear\nX\x01\0\0\0aX\x01\0\0\0btQ"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"}q\x00X\x01\0\0\0w", b"}q\x00X\x01\0\0\0v" + pid + b"sX\x01\0\0\0w"))


@hostile(".pkl")
def attributes_of_a_name(path):
    path.write_bytes(b"\x80\x02ctorch.nn.modules.linear\nLinear\nN}X\x04\0\0\0pathNs\x86b.")


@hostile(".pkl")
def extension_code(path):
    path.write_bytes(b"\x80\x02\x82\x01.")


@hostile(".pkl")
def out_of_band_data(path):
    path.write_bytes(b"\x80\x05\x97.")


# --- bombs ---------------------------------------------------------------------------------------------------------------


@hostile(".pt")
def compressed_zip(path):
    """A gigabyte of zeros in a megabyte: the same flushed block 64 times, in an entry whose header is changed to say so."""
    squeeze = zlib.compressobj(1, wbits=-15)
    block = squeeze.compress(bytes(1 << 24)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    data = 64 * block + squeeze.flush()
    zipped(path, pickle.dumps({}), {"0": data})
    content = bytearray(path.read_bytes())
    for mark, method in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        at = content.rindex(mark)
        struct.pack_into("<H", content, at + method, zipfile.ZIP_DEFLATED)
        struct.pack_into("<I", content, at + method + 14, 1 << 30)
    path.write_bytes(content)


@hostile(".pt")
def zip_in_a_zip(path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(1 << 22))
    zipped(path, buffer.getvalue(), {"0": buffer.getvalue()})


@hostile(".pt")
def zip_entry_of_claimed_size(path):
    zipped(path, pickle.dumps({}), {"0": b"1234"})
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<II", 4, 4), struct.pack("<II", 0x7FFFFFFF, 0x7FFFFFFF)))


@hostile(".pt")
def zip_directory_of_claimed_size(path):
    zipped(path, pickle.dumps({}), {f"{n:060000}": b"" for n in range(80)})


@hostile(".pt")
def zip_entries_on_one_place(path):
    zipped(path, pickle.dumps({}), {str(n): bytes(1 << 16) for n in range(64)})
    content = bytearray(path.read_bytes())
    first = at = content.index(b"PK\x01\x02")
    while (at := content.find(b"PK\x01\x02", at)) >= 0:
        content[at + 42 : at + 46] = bytes(4)  # where the entry begins
        at += 4
    end = bytearray(content[first:])
    struct.pack_into("<I", end, end.rindex(b"PK\x05\x06") + 16, 1 << 17)
    path.write_bytes(content[: 1 << 17] + end)


@hostile(".pkl")
def claimed_bytes(path):
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.")


@hostile(".pkl")
def claimed_text(path):
    path.write_bytes(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x.")


@hostile(".pkl")
def claimed_frame(path):
    path.write_bytes(b"\x80\x04\x95" + struct.pack("<Q", 1 << 50) + b"N.")


@hostile(".pkl")
def claimed_integer(path):
    path.write_bytes(b"\x80\x02\x8b" + struct.pack("<I", 1 << 30) + bytes(1 << 20) + b".")


@hostile(".pkl")
def lists_of_lists(path):
    value: list = []
    for _ in range(200):
        value = [value, value]
    path.write_bytes(pickle.dumps({"ema": value}))


@hostile(".pkl")
def tuples_as_keys(path):
    twice = b"".join(b"h%ch%c\x86q%c0" % (n, n, n + 1) for n in range(200))  # each a pair of the one before
    path.write_bytes(b"\x80\x02})q\x000" + twice + b"h%cNs." % 200)


@hostile(".pkl")
def texts_of_texts(path):
    call = b"c_codecs\nencode\nX" + struct.pack("<I", 1 << 20) + b"x" * (1 << 20) + b"q\x00X\x06\0\0\0latin1q\x01\x86R"
    again = b"c_codecs\nencode\nh\x00h\x01\x86R"
    path.write_bytes(b"\x80\x02]" + call + b"a" + (again + b"a") * 2000 + b".")


@hostile(".pkl")
def claimed_bytearray(path):
    path.write_bytes(b"\x80\x02cbuiltins\nbytearray\n\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"\x85R.")


@hostile(".pkl")
def tuples_in_a_set(path):
    twice = b"".join(b"h%ch%c\x86q%c0" % (n, n, n + 1) for n in range(200))  # each a pair of the one before
    path.write_bytes(b"\x80\x04)q\x000" + twice + b"\x8f(h%c\x90." % 200)


@hostile(".pkl")
def numbers_as_keys_that_collide(path):
    keys = b"".join(b"\x8a\x0a" + ((2**61 - 1) * n).to_bytes(10, "little") + b"N" for n in range(50_000))
    path.write_bytes(b"\x80\x02}(" + keys + b"u.")


@hostile(".pkl")
def memo_of_claimed_index(path):
    path.write_bytes(b"\x80\x02}r\xff\xff\xff\x7f.")


@hostile(".pt")
def memo_of_claimed_index_in_a_zip(path):
    zipped(path, b"\x80\x02}r\xff\xff\xff\x7f.")


@hostile(".pkl")
def claimed_bytearray_of_protocol_5(path):
    path.write_bytes(b"\x80\x05\x96" + struct.pack("<Q", 1 << 33) + b"x.")


@hostile(".pkl")
def tensors_of_one_text(path):
    """A tensor of 4 MB, made 500 times."""
    data = torch.zeros(1 << 20)._typed_storage().__reduce__()[1][0]
    load = b"ctorch.storage\n_load_from_bytes\nq\x000B" + struct.pack("<I", len(data)) + data + b"q\x010"
    path.write_bytes(b"\x80\x04" + load + b"](" + b"h\x00h\x01\x85R" * 500 + b"e.")


@hostile(".pt")
def numbers_put_into_a_tensor(path):
    zipped(path, b"\x80\x02" + view(storage(1), b"K\x01", b"K\x01") + b"K\x00K\x01s.", {"0": bytes(4)})


@hostile(".pkl")
def deep(path):
    path.write_bytes(b"\x80\x02" + b"]" * (MAX_READS // 3) + b"a" * (MAX_READS // 3 - 1) + b".")


@hostile(".pkl")
def endless(path):
    path.write_bytes(b"\x80\x02" + b"]0" * (10 * MAX_READS) + b"N.")


@hostile(".pkl")
def modules_of_modules(path):
    module = Part("Linear", {})
    for _ in range(30):  # twenty of the one before
        inner, module = module, Part("SongUNet", SONG_SETTINGS)
        for name in "abcdefghijklmnopqrst":
            module.add_module(name, inner)
    snapshot(path, module, "SongUNet", SONG_SETTINGS)


@hostile(".pt")
def view_of_one_number(path):
    huge = b"\x8a\x06" + (10**12).to_bytes(6, "little")
    zipped(path, b"\x80\x02}X\x01\0\0\0w" + view(storage(1), huge, b"K\x00") + b"s.", {"0": bytes(4)})


@hostile(".pt")
def many_views_of_one_storage(path):
    one = view(storage(1 << 18), b"J" + struct.pack("<i", 1 << 18), b"K\x01")
    entries = b"".join(b"X\x04\0\0\0" + f"{n:04}".encode() + one for n in range(4000))
    zipped(path, b"\x80\x02}(" + entries + b"u.", {"0": bytes(4 << 18)})


@hostile(".pt")
def claimed_storage_in_an_old_stream(path):
    torch.save({"w": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"K\x03Ntq", b"\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"Ntq"))


@hostile(".pt")
def block_with_a_billion_before_it(path):
    torch.save(good() | {"output_blocks.1000000000.0.in_layers.0.weight": torch.zeros(1)}, path)


@hostile(".pkl")
def nvlabs_network_of_a_million_blocks(path):
    snapshot(path, song(), "SongUNet", SONG_SETTINGS | {"num_blocks": 10**6})


@hostile(".safetensors")
def header_of_a_billion_channels(path):
    header(path, config={"channels": 10**9})


@hostile(".safetensors")
def header_of_a_billion_blocks(path):
    header(path, config={"channels": 32, "blocks": 10**9, "group": 1, "max_groups": 32})


@hostile(".safetensors")
def header_of_a_billion_pixels(path):
    header(path, shape=[3, 2**30, 2**30])


@hostile(".safetensors")
def header_of_a_billion_classes(path):
    header(path, classes=10**9)


@hostile(".safetensors")
def claimed_safetensors_header(path):
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{" + bytes(100))


@hostile("")
def diffusers_of_a_billion_channels(path):
    change(path, "unet/config.json", block_out_channels=[10**9, 2 * 10**9])


@hostile("")
def diffusers_of_a_million_layers(path):
    change(path, "unet/config.json", layers_per_block=10**6)


@hostile("")
def diffusers_with_a_long_text(path):
    write(path, ordinary())
    (path / "unet" / "config.json").write_text('{"a": "' + 10_000_000 * "x" + '"}')


@hostile("")
def diffusers_with_a_deep_text(path):
    write(path, ordinary())
    (path / "unet" / "config.json").write_text("[" * 100_000)


# --- broken files --------------------------------------------------------------------------------------------------------


def change(path: Path, file: str, **changes) -> None:
    write(path, ordinary())
    (path / file).write_text(json.dumps(json.loads((path / file).read_text()) | changes))


@hostile(".pt")
def empty(path):
    path.touch()


@hostile(".pt")
def text(path):
    path.write_text("404: not found\n")


@hostile(".pt")
def picture(path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(path, "PNG")


@hostile(".pkl")
def numpy_object_array(path):
    path.write_bytes(pickle.dumps({"ema": np.array([{}, None], dtype=object)}))


@hostile(".pkl")
def numpy_file(path):
    with open(path, "wb") as file:
        np.save(file, np.array([{}], dtype=object), allow_pickle=True)


@hostile(".pkl")
def another_program_s_pickle(path):
    path.write_bytes(pickle.dumps({"model": [1, 2, 3]}))


@hostile(".pt")
def zip_of_text(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")


@hostile(".pt")
def zip_with_a_path_out_of_it(path):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("../../canary", "x")
        file.writestr(f"{canary(path)}", "x")
        file.writestr("../data.pkl", pickle.dumps({}))


@hostile(".pt")
def zip_cut_short(path):
    torch.save(good(), path)
    path.write_bytes(path.read_bytes()[:-5000])


@hostile(".pt")
def zip_with_a_changed_byte(path):
    torch.save(good(), path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@hostile(".pt")
def old_stream_cut_short(path):
    torch.save(good(), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-5000])


@hostile(".pkl")
def snapshot_cut_short(path):
    snapshot(path, song(), "SongUNet", SONG_SETTINGS)
    path.write_bytes(path.read_bytes()[:-5000])


@hostile(".safetensors")
def safetensors_cut_short(path):
    write(path, ordinary())
    path.write_bytes(path.read_bytes()[:-5000])


@hostile(".pt")
def wrong_names(path):
    torch.save({f"net.{k}": v for k, v in good().items()}, path)


@hostile(".pt")
def one_name_missing(path):
    torch.save({k: v for k, v in good().items() if k != "middle_block.1.qkv.bias"}, path)


@hostile(".pt")
def wrong_shapes(path):
    torch.save(good() | {"middle_block.1.qkv.weight": torch.zeros(7, 5, 1, 1)}, path)


@hostile(".pt")
def whole_numbers_for_weights(path):
    torch.save({k: v.long() for k, v in good().items()}, path)


@hostile(".pt")
def weights_that_are_not_numbers(path):
    torch.save(good() | {"out.2.bias": torch.full((3,), float("nan"))}, path)


@hostile(".pt")
def a_tensor_alone(path):
    torch.save(torch.zeros(3), path)


@hostile(".pt")
def names_that_are_no_names(path):
    torch.save(OrderedDict({"a\nb\x1b[31m" * 50: torch.zeros(1)}), path)


@hostile(".safetensors")
def header_with_nan(path):
    header(path, precond={"kind": "karras", "sigma_data": float("nan"), "sigma_min": 0.002})


@hostile("")
def diffusers_with_nan(path):
    change(path, "scheduler/scheduler_config.json", sigma_min=float("nan"))


@hostile("")
def diffusers_with_text_for_a_number(path):
    change(path, "scheduler/scheduler_config.json", sigma_data="0.5")


@hostile("")
def folder_of_nothing(path):
    path.mkdir()


@hostile("")
def folder_without_weights(path):
    write(path, ordinary())
    (path / "unet" / "diffusion_pytorch_model.safetensors").unlink()


@hostile(".pt")
def symlink_to_itself(path):
    path.symlink_to(path)


@hostile(".pt")
def named_pipe(path):
    os.mkfifo(path)


# --- what happens --------------------------------------------------------------------------------------------------------

READER = """
import contextlib, io, json, sys, time
from pathlib import Path
from cmlab.commands.main import main

def reset():  # the peak is now what is in use now
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")

def peak():  # resource's ru_maxrss would begin with the peak of the process that started this one
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) / 1024

with contextlib.redirect_stdout(io.StringIO()):
    main(["convert", sys.argv[3], sys.argv[2] + "/good.safetensors"])  # imports all that reading takes
for name, path, options in json.loads(sys.argv[1]):
    target = Path(sys.argv[2]) / f"{name}-out.safetensors"
    reset()
    before, start, out, err = peak(), time.perf_counter(), io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["convert", path, str(target), *options])
    seconds = time.perf_counter() - start
    print(json.dumps([name, status, err.getvalue(), target.exists(), peak() - before, seconds]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """For every file: its path, exit status, message, whether something was written, growth of peak memory in MB, seconds."""
    if not sys.platform.startswith("linux"):
        pytest.skip("memory is measured as Linux reports it")
    folder = tmp_path_factory.mktemp("hostile")
    paths = {name: make(folder) for name, make in FILES.items()}
    fine = write(folder / "fine.safetensors", ordinary())
    before = set(folder.rglob("*"))
    work = [[name, str(path), PT_OPTIONS if path.suffix == ".pt" else []] for name, path in paths.items()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", READER, json.dumps(work), str(folder), str(fine)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False)
    results = {entry[0]: entry[1:] for entry in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 0, f"reading ended after {len(results)} files: {done.stderr[-500:]}"
    new = {p.name for p in set(folder.rglob("*")) - before}
    if report := os.environ.get("CMLAB_HOSTILE_REPORT"):
        Path(report).write_text("".join(f"{k:45} {v[3]:8.1f} MB {v[4]:6.2f} s  {v[1]}" for k, v in results.items()))
    return {name: (paths[name], *result) for name, result in results.items()}, new


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_one_clear_line(outcomes, name):
    path, status, message, written, megabytes, _ = outcomes[0][name]
    assert status == 1
    assert message.startswith("cmlab: error: ") and message.count("\n") == 1 and message.endswith("\n")
    assert str(path) in message and message.isprintable() is False and message[:-1].isprintable()
    assert len(message) < 700
    ways_out = ("again", "cmlab convert --help", "check the path", "update cmlab", "--image-size")
    assert any(way in message for way in ways_out)
    assert not written
    assert megabytes < MEGABYTES


REASONS = {
    "torchscript_program": "TorchScript",
    "tar_in_disguise": "not a pickle of protocol 2",
    "source_patch_in_an_old_stream": "refers to data outside the file",
    "attributes_of_a_name": "sets attributes of a plain value",
    "extension_code": "not a pickle of protocol 2",
    "out_of_band_data": "not a pickle of protocol 2",
    "tuples_as_keys": "neither text nor numbers",
    "tuples_in_a_set": "no network",
    "numbers_as_keys_that_collide": "neither text nor numbers",
    "memo_of_claimed_index": "no network",
    "memo_of_claimed_index_in_a_zip": "no dictionary of weights",
    "claimed_bytearray_of_protocol_5": "cut short",
    "tensors_of_one_text": "claim more bytes than the file has",
    "numbers_put_into_a_tensor": "fills a value that is no container",
    "executed_in_a_zip": "asks for 'builtins.exec'",
    "compressed_zip": "compressed zip file",
    "endless": "far more parts than a checkpoint",
}


@pytest.mark.parametrize(("name", "words"), REASONS.items())
def test_a_file_is_refused_for_what_is_hostile_in_it(outcomes, name, words):
    assert words in outcomes[0][name][2]


def test_nothing_ran_and_nothing_was_written(outcomes):
    assert outcomes[1] == {"good.safetensors"}


def test_there_are_twenty_of_them():
    assert len(FILES) >= 20


@pytest.mark.parametrize("name", ["system_call", "compressed_zip", "wrong_shapes", "diffusers_with_nan"])
def test_an_existing_target_survives(tmp_path, name):
    source = FILES[name](tmp_path)
    target = write(tmp_path / "target.safetensors", ordinary())
    before = target.read_bytes()
    facts = Facts("edm", image_size=16, head_channels=16) if source.suffix == ".pt" else None
    with pytest.raises(ValueError, match=name):
        convert(source, target, facts, overwrite=True)
    assert target.read_bytes() == before
    assert not (tmp_path / "canary").exists()
