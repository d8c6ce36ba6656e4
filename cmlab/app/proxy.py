"""Gradio and a proxy: http_proxy and its kind are set at many universities."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_proxy(host: str = "", share: bool = False) -> Iterator[None]:
    """Let gradio, which asks its own server whether it is up, ask it without a proxy. Only a tunnel needs the network.

    Around its import too: where all_proxy names a SOCKS server it would want a package for that at once.
    """
    before = os.environ.get("no_proxy")
    own = [before or os.environ.get("NO_PROXY", ""), "localhost", "127.0.0.1", "::1", host]
    os.environ["no_proxy"] = ",".join(filter(None, own)) if share else "*"
    try:
        yield
    finally:
        if before is None:
            del os.environ["no_proxy"]
        else:
            os.environ["no_proxy"] = before
