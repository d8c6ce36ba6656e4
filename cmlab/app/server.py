"""The app as a server: whom it answers, how much it takes, how it starts and ends. What it shows is in page.py.

Gradio's queue limits what runs at a time. `Guard` stands before everything that gradio answers, and `forget` behind the queue.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import torch
from anyio import to_thread
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..training.config import Precision
from . import handlers, live, view
from .page import build_app
from .parts import RUN, THREADS, Page
from .proxy import no_proxy
from .style import look

MB = 2**20
MAX_FILE, MAX_BODY, MAX_UPLOAD = 20 * MB, MB, 21 * MB  # bytes: of a file; of a request; of a request with files
MAX_FOLDER, MAX_FILES = 400 * MB, 10_000  # of the temporary folder: then the oldest files go
MAX_UPLOADS, UPLOAD_SECONDS = 8, 120  # at a time, and of each
MAX_SESSIONS = 128  # that are remembered, some hundred kB each; the one that was idle for longest goes first
MAX_THREADS = RUN["concurrency_limit"] + 6  # in which handlers run: models, and what is answered at once
PATIENCE = 15.0  # seconds that a run, or a result, waits for somebody who listens
WARM_UP_AFTER = 5.0  # seconds: its imports would slow down the first paint
API = "/gradio_api"
CALLS = (f"{API}/call/v2/", f"{API}/call/")
# Gradio's paths that the page does without: numbers on the visitors, copies of sessions on the disk, fetching for others.
CLOSED = tuple(f"{API}/{path}" for path in ("deep_link", "proxy=", "file=http", "file/http", "stream/", "dev/", "runs"))
LOG = logging.getLogger(__name__)


class Refused(Exception):
    """An answer in place of what was asked for: its status, and what to tell."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@dataclass
class Door:
    """What `Guard` and `forget` know: under which names the app is served, who listens, and how many uploads are under way."""

    page: Page
    host: str = "127.0.0.1"
    names: Sequence[str] = ()
    share: bool = False
    listeners: Counter[str] = field(default_factory=Counter)  # streams that are open, by session or by run
    uploads: int = 0

    def knows(self, name: str) -> bool:
        """Whether the app is served as ``name``, the host of an address.

        Another name that leads here may belong to a page in a visitor's browser which wants to read what only that browser can
        reach (DNS rebinding). An address in digits cannot, so all are known where the app listens on all.
        """
        name, bound = name.lower(), self.host.strip("[]").lower()
        anywhere = bound in ("0.0.0.0", "::")
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(name).is_loopback or name == bound or anywhere
        own = {"localhost", bound, *(n.lower() for n in self.names)} | ({socket.gethostname().lower()} if anywhere else set())
        return name in own or (self.share and name.endswith(".gradio.live"))

    def check(self, scope: Scope) -> None:
        """Raise Refused for a request that the app does not answer."""
        headers, path = Headers(scope=scope), scope["path"]
        asked = [f"//{name}" for name in headers.getlist("host")] or [""]
        for address in asked + headers.getlist("origin"):
            try:
                name = urlsplit(address).hostname or ""
            except ValueError:
                name = ""
            if not self.knows(name):
                raise Refused(403, f"this app is not served as {name[:100]!r}: its owner may start it with --name")
        if path.lower().startswith(("/monitoring", *CLOSED)):
            raise Refused(403, "this address is closed")
        limit = MAX_UPLOAD if takes_files(path) else MAX_BODY
        if int(headers.get("content-length") or 0) > limit:
            raise Refused(413, f"that is too much: at most {limit // MB} MB")
        if scope["method"] == "POST":
            self._check_endpoint(path)

    def _check_endpoint(self, path: str) -> None:
        before = next((before for before in CALLS if path.startswith(before)), None)
        known = {fn.api_name for fn in self.page.fns.values() if fn.api_visibility == "public"}
        if before and path.removeprefix(before).strip("/") not in known:
            name = path.removeprefix(before)[:100]
            raise Refused(404, f"there is no endpoint {name!r}: choose one of {', '.join(sorted(map(str, known)))}")
        # Events of the page that need no queue come by this name; runs must not go around it.
        if path.startswith((f"{API}/run/", f"{API}/api/")) and path.strip("/") != f"{API}/run/predict".strip("/"):
            raise Refused(404, f"runs join the queue: POST to {API}/call/NAME")

    @contextlib.contextmanager
    def heard(self, scope: Scope) -> Iterator[None]:
        """Count the stream that a request opens."""
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        key = (query.get("session_hash") or [""])[0] if scope["path"] == f"{API}/queue/data" else ""
        if scope["method"] == "GET" and scope["path"].startswith(CALLS):
            key = scope["path"].rpartition("/")[2]
        self.listeners[key] += 1
        try:
            yield
        finally:
            self.listeners[key] -= 1
            if not self.listeners[key]:
                del self.listeners[key]

    @contextlib.asynccontextmanager
    async def room(self, path: str) -> AsyncIterator[None]:
        """Room on the disk and time for a request with files; no limit to others. Raises Refused where too many are under way."""
        if not takes_files(path):
            yield
            return
        if self.uploads >= MAX_UPLOADS:
            raise Refused(503, "too many files are on their way: try again in a minute")
        self.uploads += 1
        try:
            await to_thread.run_sync(make_room, Path(os.environ["GRADIO_TEMP_DIR"]))
            async with asyncio.timeout(UPLOAD_SECONDS):
                yield
        finally:
            self.uploads -= 1


def takes_files(path: str) -> bool:
    return path.startswith((f"{API}/upload", f"{API}/component_server")) and not path.startswith(f"{API}/upload_progress")


def make_room(folder: Path, most: int = MAX_FOLDER, files: int = MAX_FILES) -> None:
    """Delete the oldest files below ``folder`` until the rest are at most ``files``, of together ``most`` bytes."""
    found = []
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another request has deleted it
            if path.is_file():
                found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in found)
    for k, (_, size, path) in enumerate(sorted(found)):
        if total <= most and len(found) - k <= files:
            return
        total -= size
        path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty
            path.parent.rmdir()


class Guard:
    """ASGI middleware before gradio: what `Door` refuses does not get there, and what fails there is answered in words."""

    def __init__(self, app: ASGIApp, door: Door):
        self.app, self.door = app, door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # a socket that is never accepted: the page has none
        begun, left = False, MAX_UPLOAD if takes_files(scope["path"]) else MAX_BODY

        async def limited() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:  # a body that came without its length
                raise Refused(413, "that is too much")
            return message

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            self.door.check(scope)
            async with self.door.room(scope["path"]):
                with self.door.heard(scope):
                    await self.app(scope, limited, noted)
        except Exception as error:
            refusal = error if isinstance(error, Refused) else None
            if refusal is None:
                LOG.warning("%s %.200r: %.500r", scope["method"], scope["path"], error)
            if begun:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            status = refusal.status if refusal else 408 if isinstance(error, TimeoutError) else 400
            text = str(refusal or "this request cannot be answered: its path or its body is not as gradio's clients send it")
            await JSONResponse({"detail": text, "error": text}, status)(scope, receive, send)


async def forget(door: Door) -> None:
    """Take out of the queue, again and again, runs whose visitor does not listen or has gone, and results that nobody fetched."""
    queue, heard = door.page._queue, door.listeners
    silent: dict[str, float] = {}  # sessions that nobody listens to, and since when
    while True:
        await asyncio.sleep(min(PATIENCE / 4, 2))
        now = time.monotonic()
        running = [event for events in queue.active_jobs for event in events or ()]
        waiting = [event for each in queue.event_queue_per_concurrency_id.values() for event in each.queue]
        for event in running + waiting:
            if now - event.enqueue_time > PATIENCE and not (heard[event.session_hash] or heard[event._id]):
                await queue.clean_events(event_id=event._id)
        runs = {session: queue.pending_event_ids_session.get(session, ()) for session in queue.pending_messages_per_session}
        silent = {s: silent.get(s, now) for s, ids in runs.items() if not any(heard[key] for key in (s, *ids))}
        for session in [s for s, since in silent.items() if now - since > 4 * PATIENCE]:
            queue.pending_messages_per_session.pop(session, None)
            queue.pending_event_ids_session.pop(session, None)


# --- start and end -----------------------------------------------------------------------------------------------------------


def launch(
    page: Page,
    host: str = "127.0.0.1",
    port: int = 7860,
    *,
    names: Sequence[str] = (),
    auth: str = "",
    share: bool = False,
    quiet: bool = False,
) -> str:
    """Serve ``page`` in a thread of its own and return its address.

    Args:
        names: further names, beside the host's own, under which browsers reach it.
        auth: NAME:PASSWORD that visitors must give; "" for none.
        share: open a public tunnel.
        quiet: print no address.
    """
    from ..data.pixels import only_known_formats

    only_known_formats()
    door = Door(page, host, names, share)

    @contextlib.asynccontextmanager
    async def lifespan(_) -> AsyncIterator[None]:
        task = asyncio.create_task(forget(door))
        yield
        task.cancel()

    name, _, password = auth.partition(":")
    with no_proxy(host, share):
        _, url, _ = page.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            share=share,
            auth=(name, password) if auth else None,
            quiet=quiet,
            prevent_thread_lock=True,
            max_threads=MAX_THREADS,
            max_file_size=MAX_FILE,
            state_session_capacity=MAX_SESSIONS,
            enable_monitoring=False,
            app_kwargs={"middleware": [Middleware(Guard, door=door)], "lifespan": lifespan},
            **look(),
        )
    return url


def hush() -> None:
    """Keep one warning from the terminal: forward-mode differentiation's first use imports what torch itself has deprecated."""
    warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning, r"torch\.jit\._script")


def serve(
    host: str,
    port: int,
    device: str,
    share: bool = False,
    auth: str = "",
    names: Sequence[str] = (),
    precision: Precision = "float32",
) -> None:
    """Serve the app until a signal ends this process; raises ValueError for an address or a device that cannot be used."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        way = "choose another, --port 7861 or 'make app PORT=7861'"
        raise ValueError(f"cannot use port {port} on {host} ({error.strerror}): {way}") from error
    try:
        handlers.DEVICE = str(torch.zeros(1, device=device).device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"the device {device!r} cannot be used ({str(error).splitlines()[0]}): choose cpu or cuda") from error
    view.PRECISION = precision
    hush()
    until = signalled()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(THREADS)
    page = build_app()
    launch(page, host, port, names=names, auth=auth, share=share)
    if not auth and (share or not Door(page).knows(host)):
        way = "--auth NAME:PASSWORD asks for a password"
        print(f"cmlab: warning: whoever reaches {host}:{port} can use this app: {way}", file=sys.stderr)
    threading.Thread(target=lambda: until(WARM_UP_AFTER) is None and live.warm_up(), daemon=True).start()
    status = until(None)
    page.close(verbose=False)
    shutil.rmtree(os.environ["GRADIO_TEMP_DIR"], ignore_errors=True)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, OSError):  # closed, or its reader has gone
            stream.flush()
    os._exit(status or 0)  # the interpreter's own end would wait for what visitors, who have lost it, have started


def signalled() -> Callable[[float | None], int | None]:
    """From now on SIGTERM, SIGHUP and Ctrl-C are only noted: a function that waits, at most so many seconds, for the first.

    It returns the exit status that belongs to it, None if none came. A second signal ends the program there and then.
    """
    came: list[int] = []
    event = threading.Event()

    def note(number: int, _) -> None:
        came.append(0 if number == signal.SIGINT else 128 + number)
        signal.signal(number, signal.SIG_DFL)
        event.set()

    for name in ("SIGTERM", "SIGHUP", "SIGINT"):
        if (number := getattr(signal, name, None)) and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, note)

    def wait(seconds: float | None) -> int | None:
        ended = event.wait(0.5 if seconds is None else seconds)
        while seconds is None and not ended:  # in short turns: on Windows a long one hears no Ctrl-C
            ended = event.wait(0.5)
        return came[0] if came else None

    return wait
