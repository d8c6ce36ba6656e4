"""The app under strange input and under many visitors: ``python benchmarks/app.py fuzz``, ``load``, ``stop``. Starts it by itself.

fuzz: --calls wrong calls of every endpoint and of the page's own events: answers without a message, and tracebacks in the log.
load: --clients programs for --minutes, each call a session of its own. Memory after the first minute and at the end, and how long
``GET /`` takes. stop: how long the app takes to end, and to free its port, in its first seconds and when it is flooded.
"""

import argparse
import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil

JSON = {"content-type": "application/json"}
FILE = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
STRANGE: tuple[Any, ...] = (
    None, True, -1, 0, 0.5, 10**400, 1e308, "", "x", "../../etc/passwd", "\x00\n<img src=x>", "a" * 9999, [], {}, [[]], [None],
    {"a": 1}, [1, 2, 3], {"path": 1}, {"path": "no"}, FILE, {"path": "http://example.com/a.png", "meta": FILE["meta"]},
    {"url": "x"}, {"background": None, "layers": None, "composite": None}, {"background": 3}, {"layers": [FILE], "composite": FILE},
    {"id": []},
)  # fmt: skip
CHEAP = {"count": 1, "edm_steps": 1, "steps": 10, "frames": 2, "batch": 16}  # for what is not strange in a call


@contextlib.contextmanager
def served(port: int) -> Iterator[tuple[str, psutil.Process, Path]]:
    """The app in a process of its own: its address, the process and its log."""
    log = Path(tempfile.mkdtemp()) / "log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "cmlab", "app", f"--port={port}"], stdout=file, stderr=file)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            with contextlib.suppress(httpx.HTTPError):
                httpx.get(f"{url}/config", trust_env=False)
                break
            time.sleep(0.2)
        yield url, psutil.Process(process.pid), log
    finally:
        process.kill()
        process.wait()


def call(client: httpx.Client, name: str, data: list, patience: float = 60) -> tuple[str, Any]:
    """Run an endpoint and listen to its end: "complete", "error", "refused" or "left", and what came with it."""
    answer = client.post(
        f"/gradio_api/call/{name}", content=json.dumps({"data": data}), headers={"content-type": "application/json"}
    )
    if answer.status_code != 200:
        return "refused", answer.text
    begun, event = time.monotonic(), ""
    with client.stream("GET", f"/gradio_api/call/{name}/{answer.json()['event_id']}") as stream:
        for line in stream.iter_lines():
            kind, _, text = line.partition(": ")
            if kind == "data" and event in ("complete", "error"):
                return event, json.loads(text)
            event = text if kind == "event" else event
            if time.monotonic() - begun > patience:
                return "left", ""
    return "error", None


def has_words(text: Any) -> bool:
    with contextlib.suppress(ValueError, TypeError):
        text = json.loads(text) if isinstance(text, str) else text
    return bool(text.get("error") or text.get("detail") if isinstance(text, dict) else text)


def fuzz(url: str, log: Path, calls: int) -> None:
    """Replace one value or more of a call by something strange; one call in four is of an event that only the page knows."""
    draw, ends, silent = random.Random(0), Counter(), []
    with httpx.Client(base_url=url, timeout=90, trust_env=False) as client:
        endpoints = client.get("/gradio_api/info").json()["named_endpoints"]
        config = client.get("/config").json()
        for k in range(calls):
            if k % 4 == 3:
                event = draw.choice(config["dependencies"])
                body = {
                    "data": [draw.choice(STRANGE) for _ in event["inputs"]],
                    "fn_index": event["id"],
                    "session_hash": f"s{k % 50}",
                }
                body |= {"event_data": draw.choice(STRANGE), "trigger_id": draw.choice((None, 1, 10**6))}
                answer = client.post(
                    "/gradio_api/run/predict", content=json.dumps(body), headers={"content-type": "application/json"}
                )
                end, text = ("complete" if answer.status_code == 200 else "error"), answer.text
            else:
                name, endpoint = draw.choice([*endpoints.items()])
                values = [CHEAP.get(p["parameter_name"], p["parameter_default"]) for p in endpoint["parameters"]]
                for place in draw.sample(range(len(values)), draw.choice((1, 1, 1, 2, len(values)))):
                    values[place] = draw.choice(STRANGE)
                if draw.random() < 0.05:
                    values = draw.choice((values[:-1], [*values, 1], []))
                name = draw.choice((name.strip("/"),) * 19 + ("no/such", "predict", "../x", "%00"))
                end, text = call(client, name, values, 5)
            ends[end] += 1
            if end in ("error", "refused") and not has_words(text):
                silent.append((k, end, text))
    print(f"{calls} calls: {dict(ends)}; without a message: {len(silent)}; tracebacks: {log.read_text().count('Traceback')}")
    for each in silent[:10]:
        print(*each)


def load(url: str, process: psutil.Process, log: Path, clients: int, minutes: float) -> None:
    ends, waits, sizes = Counter(), [], []
    begun, over = time.monotonic(), threading.Event()

    def visit(k: int) -> None:
        draw = random.Random(k)
        while not over.is_set():
            name, data = draw.choice((
                ("sample", [None, draw.randrange(99), draw.choice((1, 16)), 18, 1, None, "all", "heun", None]),
                ("edit", ["inpaint", None, draw.randrange(9), "left", None, None, None, "auto", 4, 2, None, draw.randrange(99)]),
                ("interpolate", [None, None, draw.randrange(99), 2, 11, "auto", None, None]),
                ("train", ["rings", ["cd"], 50, 64, 0, [], ""]),
            ))  # fmt: skip
            with contextlib.suppress(httpx.HTTPError), httpx.Client(base_url=url, timeout=120, trust_env=False) as client:
                ends[call(client, name, data)[0]] += 1
            over.wait(draw.random())

    def look() -> None:
        while not over.wait(0.5):
            clock = time.monotonic()
            httpx.get(url, timeout=60, trust_env=False).raise_for_status()
            waits.append(time.monotonic() - clock)
            sizes.append((clock - begun, process.memory_info().rss / 2**20))

    def threads(target: Callable, *each: tuple) -> list[threading.Thread]:
        made = [threading.Thread(target=target, args=args, daemon=True) for args in each]
        for thread in made:
            thread.start()
        return made

    watch = threads(look, ())
    work = threads(visit, *[(k,) for k in range(clients)])
    over.wait(60 * minutes)
    open_files, running = process.num_fds(), process.num_threads()
    over.set()
    for thread in watch + work:
        thread.join(130)
    first = max(size for at, size in sizes if at < 60)
    last = max(size for at, size in sizes if at > 60 * minutes - 30)
    waits.sort()
    usual, most = waits[len(waits) // 2], waits[len(waits) * 95 // 100]
    print(f"{clients} clients, {minutes:g} min: {dict(ends)}; GET / takes {usual:.2f} s, 95 of 100 at most {most:.2f} s")
    print(f"memory: {first:.0f} MB in the first minute, {last:.0f} MB in the last half ({last / first - 1:+.1%});")
    print(f"{open_files} open files, {running} threads; tracebacks: {log.read_text().count('Traceback')}")


def stop(port: int) -> None:
    for moment in (0.0, 5.0, 5.2, 5.4, "flooded"):
        with served(port) as (url, process, _), httpx.Client(base_url=url, timeout=5, trust_env=False) as client:
            if moment == "flooded":
                for k in range(40):
                    data = ["two-moons", ["ccd"], 5000, 2048, k, [], ""]
                    with contextlib.suppress(httpx.HTTPError):
                        client.post("/gradio_api/call/train", json={"data": data})
                        client.post("/gradio_api/run/train", json={"data": data})
                time.sleep(3)
            else:
                time.sleep(moment)
            clock = time.monotonic()
            process.send_signal(signal.SIGTERM)
            status = process.wait(120)
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
            print(f"SIGTERM, {moment}: status {status}, port free, after {time.monotonic() - clock:.2f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fuzz", "load", "stop"))
    parser.add_argument("--port", type=int, default=7949)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--minutes", type=float, default=6.0)
    o = parser.parse_args()
    if o.what == "stop":
        stop(o.port)
    else:
        with served(o.port) as (url, process, log):
            fuzz(url, log, o.calls) if o.what == "fuzz" else load(url, process, log, o.clients, o.minutes)
