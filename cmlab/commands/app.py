"""``cmlab app``: the app in the browser."""

import os
from dataclasses import dataclass, field

from .options import InPrecision


@dataclass(frozen=True)
class AppOptions:
    """Serve the app on the bundled checkpoints and those in runs/, until Ctrl-C.

    Args:
        port: port to listen on; by default $PORT, or 7860.
        host: address to listen on; 0.0.0.0 lets other machines in, and then --auth should be said.
        device: where the models run, such as cuda; the small bundled ones run well on a CPU.
        share: open a public tunnel, which needs the network.
        auth: NAME:PASSWORD that visitors must give; by default $CMLAB_AUTH, or none.
        name: further names of this machine in browsers' addresses, such as demo.example.org of a server that stands before it.
    """

    port: str = field(default_factory=lambda: os.environ.get("PORT", "7860"))
    host: str = "127.0.0.1"
    device: str = "cpu"
    share: bool = False
    auth: str = ""
    name: tuple[str, ...] = ()
    precision: InPrecision = "float32"

    def __post_init__(self):
        if not self.port.isdecimal() or not 1 <= int(self.port) <= 65535:  # before torch is imported, which takes seconds
            way = "use --port 7861, or 'make app PORT=7861'"
            raise ValueError(f"the port must be a number from 1 to 65535, got {self.port!r}: {way}")
        if self.auth and not all(self.auth.partition(":")):
            raise ValueError("--auth takes NAME:PASSWORD")


def app(o: AppOptions) -> None:
    """Serve the app; raises ImportError without gradio, ValueError for an address or device that cannot be used."""
    from ..app.proxy import no_proxy

    auth = o.auth or os.environ.get("CMLAB_AUTH", "")
    if auth and not all(auth.partition(":")):
        raise ValueError("$CMLAB_AUTH takes NAME:PASSWORD")
    try:
        with no_proxy():
            import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ImportError("the app needs gradio: pip install 'cmlab[app]'") from error
    from ..app.server import serve

    serve(o.host, int(o.port), o.device, o.share, auth, o.name, o.precision)
