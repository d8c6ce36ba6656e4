"""The app as a server: whom it answers, how much it takes, how it starts and ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

gr = pytest.importorskip("gradio", reason="the app is an extra: pip install cmlab[app]")
httpx = pytest.importorskip("httpx", reason="gradio brings it")
from gradio.state_holder import SessionState  # noqa: E402
from PIL import Image  # noqa: E402
from test_app import free_port, served  # noqa: E402, F401  (a fixture)

from cmlab.app import handlers, live, server, theory, view  # noqa: E402
from cmlab.app import page as app  # noqa: E402
from cmlab.app.proxy import no_proxy  # noqa: E402
from cmlab.commands.main import main  # noqa: E402

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def http(served) -> Iterator:  # noqa: F811
    with httpx.Client(base_url=served, timeout=60, trust_env=False) as client:
        yield client


def ends(http, name: str, data: list) -> str:
    """What is answered last when an endpoint is called with ``data``."""
    joined = http.post(f"/gradio_api/call/{name}", content=json.dumps({"data": data}), headers=JSON)
    assert joined.status_code == 200, joined.text
    return http.get(f"/gradio_api/call/{name}/{joined.json()['event_id']}").text


# --- input -----------------------------------------------------------------------------------------------------------------

STRANGE = (
    None, True, 0.5, -1, 10**400, "", "x", "a" * 999, [], [[]], {}, {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}},
    {"path": "http://127.0.0.2/a.png", "meta": {"_type": "gradio.FileData"}}, {"background": 1}, {"layers": [None], "composite": 3},
)  # fmt: skip


def not_now(*args, **kwargs):
    raise ValueError("not now")


@pytest.fixture
def idle(tmp_path, monkeypatch):
    """The page, in which what is not refused is not done either."""
    monkeypatch.chdir(tmp_path)
    for module, name in ((view, "trail"), (view, "make_interpolation"), (handlers, "run_edit"), (theory, "experiment")):
        monkeypatch.setattr(module, name, not_now)
    monkeypatch.setattr(live, "Training", not_now)
    return app.build_app()


def answer(page, fn, values: list, told=None, session=None):
    """What the page's event ``fn`` gives for values, without a server."""
    return asyncio.run(page.process_api(fn, values, session or SessionState(page), event_data=gr.EventData(None, told)))


def test_every_strange_value_in_every_box_is_answered_in_words(idle, capfd):
    """Of the endpoints, whose other boxes hold what the page shows, and of the page's own events."""
    asked, session = 0, SessionState(idle)
    for fn in filter(lambda fn: fn.fn, idle.fns.values()):
        usual = [getattr(box, "value", None) for box in fn.inputs]
        for place in range(len(usual)):
            for strange in STRANGE:
                try:
                    answer(idle, fn, [*usual[:place], strange, *usual[place + 1 :]], {"index": 0, "value": 0}, session)
                except gr.Error as error:
                    assert error.message and not error.print_exception, (fn.name, fn.inputs[place].label, strange, error)
                asked += 1
        if usual and fn.api_visibility == "public":
            with pytest.raises(gr.Error, match="are needed"):
                answer(idle, fn, usual[:-2])
    assert asked > 1200 and "Traceback" not in "".join(capfd.readouterr())


def test_a_strange_selection_is_answered_in_words(idle):
    picks = [fn for fn in idle.fns.values() if fn.collects_event_data]
    assert len(picks) == 4
    for fn in picks:
        for told in (None, [], [[]], {}, {"index": "x", "value": 0}, {"index": 10**9, "value": 0}):
            with pytest.raises(gr.Error) as refused:
                answer(idle, fn, [box.value for box in fn.inputs], told)
            assert not refused.value.print_exception


def test_what_is_refused_reaches_a_program_and_a_fault_its_log(http, monkeypatch, capfd):
    said = ends(http, "edit", [[], None, 3, "left", None, None, None, "auto", 2, 2, None, 0, 1])
    assert "event: error" in said and "is not in the list of choices" in said and "Traceback" not in "".join(capfd.readouterr())
    monkeypatch.setattr(theory, "experiment", lambda *args: 1 / 0)
    said = ends(http, "theorems", ["thm1", "soft3", "heun", None, "l2", "other", "8gaussians-edm", "1", 0])
    assert "fault of the app" in said and "ZeroDivisionError" in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("call/nope", 404, "choose one of edit, interpolate, sample, theorems, train"),
        ("call/v2/nope", 404, "there is no endpoint 'nope'"),
        ("call/lambda", 404, "there is no endpoint 'lambda'"),
        ("run/sample", 404, "runs join the queue"),
        ("api/train/", 404, "runs join the queue"),
        ("queue/join", 400, "cannot be answered"),  # event 999
        ("component_server", 400, "Invalid JSON body"),
    ],
)
def test_a_wrong_address_is_answered_in_words(http, path, status, words, capfd):
    answer = http.post(f"/gradio_api/{path}", json={"data": [], "fn_index": 999, "session_hash": "a"})
    assert answer.status_code == status and words in answer.text
    assert "Traceback" not in "".join(capfd.readouterr())


def test_no_run_goes_around_the_queue(http, served):  # noqa: F811
    before = threading.active_count()
    queued = [e["id"] for e in http.get("/config").json()["dependencies"] if e["api_name"] in ("sample", "train")]
    for index in queued:
        answer = http.post("/gradio_api/run/predict", json={"data": [], "fn_index": index, "session_hash": "b"})
        assert answer.status_code == 404
    assert threading.active_count() <= before + 1


# --- names, sizes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "known", "foreign"),
    [
        (
            "127.0.0.1",
            ["127.0.0.1", "localhost", "LOCALHOST", "::1", "demo.example"],
            ["evil.example", "10.0.0.1", "", "x.gradio.live"],
        ),
        ("0.0.0.0", ["10.0.0.1", "fe80::1", "localhost", socket.gethostname(), "demo.example"], ["evil.example", ""]),
        ("lab.example", ["lab.example", "127.0.0.1", "demo.example"], ["example", "10.0.0.1", "evil.lab.example"]),
        ("::1", ["::1", "localhost"], ["evil.example", "fe80::1"]),
    ],
)
def test_the_names_that_the_app_has(host, known, foreign):
    door = server.Door(SimpleNamespace(fns={}), host, ["demo.example"])  # type: ignore[arg-type]
    assert all(map(door.knows, known)) and not any(map(door.knows, foreign))
    assert server.Door(door.page, host, share=True).knows("abc.gradio.live")


def test_foreign_names_and_closed_addresses_are_refused(http):
    for headers in ({"Host": "evil.example"}, {"Host": "10.0.0.1:80"}, {"Origin": "http://evil.example"}, {"Origin": "null"}):
        answer = http.get("/config", headers=headers)
        assert answer.status_code == 403 and "not served as" in answer.json()["detail"]
    assert http.get("/config", headers={"Host": "localhost:1", "Origin": "http://localhost:1"}).status_code == 200
    for path in ("monitoring", "monitoring/summary", "gradio_api/deep_link?session_hash=a", "gradio_api/file=http://127.0.0.2/"):
        assert http.get(f"/{path}").status_code == 403
    assert http.get("/gradio_api/FILE=../../etc/passwd").status_code == 404


def test_a_request_has_a_size(http):
    much = b"x" * (server.MAX_BODY + 1)
    assert http.post("/gradio_api/queue/join", content=much, headers=JSON).status_code == 413
    assert http.post("/gradio_api/queue/join", content=iter([much]), headers=JSON).status_code in (400, 413)  # its length not told
    files = [("files", (f"{k}.png", b"x" * 2**20)) for k in range(22)]
    assert http.post("/gradio_api/upload", files=files).status_code == 413
    assert http.post("/gradio_api/upload", files=files[:2]).status_code == 200


def test_old_files_make_room_for_new_ones(tmp_path):
    for k in range(6):
        (tmp_path / str(k)).mkdir()
        (tmp_path / str(k) / "a.png").write_bytes(b"x" * 10)
        os.utime(tmp_path / str(k) / "a.png", (k, k))
    server.make_room(tmp_path, 40, 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == list("2345")
    server.make_room(tmp_path, 1000, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["5"]


def test_uploads_have_a_number(http, monkeypatch):
    monkeypatch.setattr(server, "MAX_UPLOADS", 0)
    answer = http.post("/gradio_api/upload", files=[("files", ("a.png", b"x"))])
    assert answer.status_code == 503 and "try again" in answer.text


def test_a_canvas_keeps_few_layers(served, http):  # noqa: F811
    canvas = next(c for c in http.get("/config").json()["components"] if c["props"].get("elem_id") == "painted")
    for k, index in enumerate(["0"] * 20 + ["1000000000"]):
        data = {
            "component_id": canvas["id"],
            "session_hash": "c",
            "fn_name": "accept_blobs",
            "id": str(k),
            "type": "layer",
            "index": index,
        }
        answer = http.post("/gradio_api/component_server", data=data, files={"file": ("a.png", b"x")})
        assert answer.status_code == (200 if index == "0" else 400)


def test_a_run_that_nobody_listens_to_leaves_the_queue():
    """Waiting or running; and what it has left is forgotten."""
    gone = []

    async def clean_events(*, event_id):
        gone.append(event_id)

    def event(name: str, age: float = 100.0) -> SimpleNamespace:
        return SimpleNamespace(_id=name, session_hash=f"s-{name}", enqueue_time=time.monotonic() - age)

    waiting = SimpleNamespace(queue=[event("waits"), event("new", 0.0), event("heard"), event("heard by id")])
    queue = SimpleNamespace(
        active_jobs=[None, [event("runs")]],
        event_queue_per_concurrency_id={"model": waiting},
        clean_events=clean_events,
        pending_messages_per_session={"s-heard": 1, "s-silent": 1},
        pending_event_ids_session={"s-heard": {"heard"}, "s-silent": {"silent"}},
    )
    door = server.Door(SimpleNamespace(_queue=queue))  # type: ignore[arg-type]

    async def watch() -> None:
        scope = {"method": "GET", "path": "/gradio_api/queue/data", "query_string": b"session_hash=s-heard"}
        with door.heard(scope), door.heard({"method": "GET", "path": "/gradio_api/call/sample/heard by id"}):
            task = asyncio.create_task(server.forget(door))
            await asyncio.sleep(0.01)
            for _ in range(2000):
                if "s-silent" not in queue.pending_messages_per_session:
                    break
                await asyncio.sleep(0.01)
            task.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "PATIENCE", 0.2)
        waiting.queue[1].enqueue_time += 1000  # it stays new
        asyncio.run(watch())
    assert {"waits", "runs"} == set(gone) and not door.listeners
    assert list(queue.pending_messages_per_session) == ["s-heard"] == list(queue.pending_event_ids_session)


# --- pictures and fonts ----------------------------------------------------------------------------------------------------


def test_no_picture_reaches_another_program(served, tmp_path):  # noqa: F811
    """Not through gradio's own boxes either, which open whatever Pillow knows."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").size == (8, 8)
    (tmp_path / "eps.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(Image.UnidentifiedImageError):
        Image.open(tmp_path / "eps.png")


def test_figures_are_drawn_on_one_thread():
    seen = []

    def plot():
        from matplotlib.figure import Figure

        seen.append(threading.get_ident())
        return Figure(figsize=(1, 1))

    threads = [threading.Thread(target=view.drawn, args=(plot,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 3 and len(set(seen)) == 1 and threading.get_ident() not in seen


# --- names as text ---------------------------------------------------------------------------------------------------------


EVIL = ("![a](http://evil.example/a.png)", "<img src=http://evil.example>", "a*b_c`d", "http://x.example", "www.x.example", "&lt;")


@pytest.mark.parametrize("name", EVIL)
def test_a_name_in_a_caption_is_text(name):
    markdown = pytest.importorskip("markdown_it", reason="gradio brings it").MarkdownIt("gfm-like", {"linkify": False})
    inner = markdown.render(f"class {view.plain(name)}").strip().removeprefix("<p>").removesuffix("</p>")
    assert "<" not in inner
    import html

    assert html.unescape(inner) == f"class {name}"


def test_names_of_a_header_are_escaped_wherever_they_are_shown(tmp_path, monkeypatch):
    from test_app import untrained

    from cmlab.formats import checkpoints

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    evil = "![x](http://evil.example/x.png)"
    untrained(tmp_path, "zoo", (3, 32, 32), ("edm", "cd"), {"data": "zoo", "class_names": [evil, "<img src=x>"]}, 2)
    *_, (_, _, text, *_) = handlers.interpolate(frames=2)
    assert "![x]" not in text and "\\!\\[x\\]" in text
    *_, (_, _, _, text, *_) = handlers.edit("super_resolve", steps=1)
    assert "![x]" not in text
    with pytest.raises(gr.Error) as refused:
        list(handlers.sample(class_name="<img src=y>"))
    assert "<" not in refused.value.message and "&lt;img src=x&gt;" in refused.value.message


# --- start and end ---------------------------------------------------------------------------------------------------------


def test_a_proxy_is_not_asked_about_the_own_server(monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv("NO_PROXY", "uni.example")
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    with no_proxy("lab.example"):
        assert not httpx.Client()._mounts
    with no_proxy("lab.example", share=True):
        assert os.environ["no_proxy"] == "uni.example,localhost,127.0.0.1,::1,lab.example"
    assert "no_proxy" not in os.environ


@pytest.mark.parametrize("auth", ["name", ":word", "name:"])
def test_a_password_is_never_half(capsys, monkeypatch, auth):
    assert main(["app", f"--auth={auth}"]) == 2
    assert "NAME:PASSWORD" in capsys.readouterr().err
    monkeypatch.setenv("CMLAB_AUTH", auth)
    assert main(["app"]) == 1
    assert "NAME:PASSWORD" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="Windows has no signals that end a process in order")
@pytest.mark.parametrize("moment", ["at once", "in the warm-up"])
def test_a_signal_ends_the_app_behind_a_proxy(tmp_path, moment):
    """Whatever it is doing: its folder goes, its port is free, and the status says which signal it was."""
    port = free_port()
    code = (
        "import os, sys, time\n"
        "from cmlab.app import live, server\n"
        "def warm_up():\n    print('warming', flush=True)\n    while True: pass\n"
        "live.warm_up = warm_up\n"
        "server.WARM_UP_AFTER = 0.0 if sys.argv[2] == 'in the warm-up' else 60.0\n"
        "print(os.environ['GRADIO_TEMP_DIR'], flush=True)\n"
        "server.serve('0.0.0.0', int(sys.argv[1]), 'cpu')\n"
    )
    env = {**os.environ, "http_proxy": "http://127.0.0.1:9", "all_proxy": "http://127.0.0.1:9", "TMPDIR": str(tmp_path)}
    env.pop("GRADIO_TEMP_DIR", None)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(port), moment], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    )
    assert process.stdout is not None and process.stderr is not None
    folder = process.stdout.readline().strip()
    until = "warming" if moment == "in the warm-up" else "Running on"
    while until not in (line := process.stdout.readline()):
        assert line, process.stderr.read()
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143
    assert "warning: whoever reaches 0.0.0.0" in process.stderr.read() or moment == "at once"
    assert not os.path.exists(folder)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
