r"""A web page that segments pictures and videos by prompts you upload or paint.

Example:
    python -m ldis_jax.demo --model=runs/tiny/model
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

from ldis_jax.errors import LDISError
from ldis_jax.support import cli

_SHIPPED = "This small model knows painted shapes only, like those of the examples; photographs need another model."


def _positive(value: str) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return number


def _arguments() -> argparse.Namespace:
    parser = cli.Parser("demo", __doc__)
    parser.add_argument("--model", required=True, help='model folder, hub id, or "tiny"')
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at; others than this machine's own open "
                        "the page to the network, without a password (default 127.0.0.1)")  # fmt: skip
    parser.add_argument("--port", type=int, default=7860, help="default 7860")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--max_upload_mb", type=_positive, default=50, help="of one file, 1 MB = 1024 * 1024 bytes (default 50)"
    )
    parser.add_argument("--max_megapixels", type=_positive, default=25, help="of one picture or frame (default 25)")
    return parser.parse_args()


def main() -> None:
    """Entry point."""
    args = _arguments()
    _check_address(args.host, args.port)
    from ldis_jax.demo.uploads import Limits
    from ldis_jax.pipeline import LDISPipeline
    from ldis_jax.weights.hub import SHIPPED

    pipe = LDISPipeline.from_pretrained(args.model, dtype=args.dtype)
    if importlib.util.find_spec("gradio") is None:
        raise LDISError("the web page needs Gradio: pip install 'ldis_jax[demo]'")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves the ``with`` block, as Ctrl-C does
    with tempfile.TemporaryDirectory(prefix="ldis_jax_demo_") as folder:
        # Gradio reads these when it is imported: uploads and results vanish with the server, and nothing calls home.
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
        from ldis_jax.demo.page import serve
        from ldis_jax.demo.widgets import Server

        about = _SHIPPED if args.model in SHIPPED else ""
        limits = Limits(args.max_upload_mb, args.max_megapixels)
        serve(Server(pipe, limits, Path(folder), about), args.host, args.port)


def _check_address(host: str, port: int) -> None:
    """Raises :class:`LDISError` where nothing can be served, before a model is loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address[0], port))
    except (OSError, OverflowError) as error:
        raise LDISError(f"--host={host} --port={port}: cannot be served ({error}); choose others") from None


if __name__ == "__main__":
    cli.run(main)
