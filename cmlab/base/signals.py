"""How a command is stopped by a signal."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Interrupted(BaseException):
    """A signal asked a command to stop; a training has saved its state. ``code`` is the shell's status for the signal.

    Not an Exception, as KeyboardInterrupt is none: what handles errors shall not take it for one.
    """

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


@contextmanager
def answering(handler: Callable[[int, Any], object], *numbers: int) -> Iterator[None]:
    """Let ``handler`` answer these signals. Only the main thread is told of signals: in others nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def interrupt(number: int, frame: object) -> None:
    """Ends what runs, which removes what it has half written: for `answering`. Raises Interrupted."""
    raise Interrupted(128 + number, f"stopped by {signal.Signals(number).name}.")
