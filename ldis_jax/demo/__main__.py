r"""A web page that segments images and videos by prompts you upload or paint.

Example:
    python -m ldis_jax.demo --model=runs/tiny/model
"""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

from ldis_jax.errors import LDISError
from ldis_jax.support import cli


def _positive(value: str) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is not positive")
    return number


def _arguments() -> argparse.Namespace:
    parser = cli.Parser("demo", __doc__)
    parser.add_model_flag(required=True)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at; one that other machines reach needs "
                        "--user and --password, or --open (default 127.0.0.1)")  # fmt: skip
    parser.add_argument("--port", type=int, default=7860, help="default 7860")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument(
        "--max_upload_mb", type=_positive, default=50, help="of one file, 1 MB = 1024 * 1024 bytes (default 50)"
    )
    parser.add_argument("--max_megapixels", type=_positive, default=25, help="of one image or frame (default 25)")
    parser.add_argument(
        "--max_session_mb", type=_positive, default=500, help="of one browser's uploads within an hour (default 500)"
    )
    parser.add_argument("--max_total_mb", type=_positive, default=4000, help="of all uploads within an hour, and of "
                        "all files, which are kept for an hour (default 4000)")  # fmt: skip
    parser.add_argument("--max_minutes", type=_positive, default=10, help="of one run of the model (default 10)")
    parser.add_argument("--user", default="", help="name that a browser must give")
    parser.add_argument("--password", default=os.environ.get("LDIS_JAX_DEMO_PASSWORD", ""), help="that a browser must "
                        "give; the variable LDIS_JAX_DEMO_PASSWORD hides it from other users of this machine. It is "
                        "sent as it is: put a proxy with HTTPS before the page")  # fmt: skip
    parser.add_argument("--open", action="store_true", help="no password: whoever reaches the address may upload files "
                        "and use the model, within the limits")  # fmt: skip
    parser.add_argument("--name", action="append", default=[], metavar="HOST", help="a name that browsers may ask "
                        "for beside --host, as that of a proxy; others are refused; may be repeated")  # fmt: skip
    return parser.parse_args()


def _check_gradio() -> None:
    if importlib.util.find_spec("gradio") is None:
        raise LDISError("the web page needs Gradio: pip install -e '.[demo]'")


def main() -> None:
    """Entry point."""
    args = _arguments()
    is_local = _check_address(args.host, args.port)
    login = _login(args, is_local)
    if not (is_local or login):
        print(f"--open: whoever reaches {args.host} may upload files and use the model, within the limits", flush=True)
    from ldis_jax.demo.uploads import Limits
    from ldis_jax.pipeline import LDISPipeline
    from ldis_jax.weights.named_models import TABLE, ready_folder

    if args.model in TABLE and ready_folder(args.model) is None:
        _check_gradio()  # before gigabytes are fetched
    pipe = LDISPipeline.from_pretrained(args.model, dtype=args.dtype)
    _check_gradio()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves the ``with`` block, as Ctrl-C does
    with tempfile.TemporaryDirectory(prefix="ldis_jax_demo_") as made:
        folder = str(Path(made).resolve())  # as Gradio names what is in it
        # Gradio reads these when it is imported: uploads and results vanish with the server, and nothing calls home.
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
        from ldis_jax.demo.page import Access, serve
        from ldis_jax.demo.widgets import Server

        limits = Limits(
            args.max_upload_mb, args.max_megapixels, args.max_session_mb, args.max_total_mb, args.max_minutes
        )
        serve(Server(pipe, limits, Path(folder)), Access(args.host, args.port, is_local, args.name, login))


def _login(args: argparse.Namespace, is_local: bool) -> str:
    """The login that browsers must send, "user:password"; empty where everyone has access."""
    if bool(args.user) != bool(args.password) or ":" in args.user:
        raise LDISError("--user and --password: give both, or none; a user's name has no colon")
    if not (is_local or args.user or args.open):
        raise LDISError(
            f"--host={args.host}: other machines reach this address; give --user and --password, or --open to let in "
            "whoever reaches it"
        )
    return f"{args.user}:{args.password}" if args.user else ""


def _check_address(host: str, port: int) -> bool:
    """True if only this machine reaches an address; raises :class:`LDISError` where nothing can be served there."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address[0], port))
    except (OSError, OverflowError, UnicodeError) as error:
        raise LDISError(f"--host={host} --port={port}: cannot be served ({error}); choose others") from None
    return all(ipaddress.ip_address(each[4][0]).is_loopback for each in found)


if __name__ == "__main__":
    cli.run(main)
