"""The page as a whole, and the server."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import fastapi
import gradio as gr
from PIL import Image

from ldis_jax.demo import http_server, image_tab, video_tab
from ldis_jax.demo.guard import Guard, Names
from ldis_jax.demo.requests import Requests
from ldis_jax.demo.sessions import CHECK_EVERY, KEEP, Sessions
from ldis_jax.demo.widgets import Server

_MAX_WAITING, _MAX_SESSIONS = 16, 32
_CSS = """
.gradio-container { width: 100%; max-width: 1280px !important; margin: 0 auto !important; }
.alert:has([role=alert]:empty) { display: none; }
.alert [role=alert] { border-left: .25em solid #ef4444; padding: .3em .8em; font-weight: 600; }
.legend { display: inline-flex; align-items: center; gap: .4em; margin: .1em 1.2em .1em 0; }
.legend i { width: .9em; height: .9em; border-radius: .2em; outline: 1px solid rgba(128, 128, 128, .6); }
.scale { display: flex; align-items: center; gap: .6em; font-size: .85em; opacity: .85; }
.scale i { flex: none; width: 9em; height: .7em; border-radius: .2em;
  background: linear-gradient(90deg, #00224e, #35456c, #666970, #948e77, #c8b866, #fee838); }
"""
# What the page does in the browser beyond Gradio; LIMIT is the most bytes that the server takes of one file.
_HEAD = """
<script>
(() => {
  // An editor sends its image as a PNG without a look at the limit, and waits for ever where the server refuses it.
  // An empty file in its place gets to our functions, which say what is wrong.
  const send = window.fetch;
  window.fetch = (address, options) => {
    if (options?.body instanceof FormData) {
      const body = new FormData();
      for (const [key, value] of options.body) {
        body.append(key, value instanceof File && value.size > LIMIT ? new File([], value.name) : value);
      }
      options = {...options, body};
    }
    return send(address, options);
  };
  // An editor stays empty, without a word, where the browser cannot read an image.
  const check = (event, files) => {
    const editor = event.target.closest?.("#prompt");
    if (!editor || !files?.length) return;
    const alert = document.querySelector("#prompt-alert");
    alert.textContent = "";
    createImageBitmap(files[0]).then((image) => image.close(), () => {
      alert.textContent = `${files[0].name}: not an image that can be read; convert it to PNG or JPEG`;
    });
  };
  document.addEventListener("change", (event) => check(event, event.target.files), true);
  document.addEventListener("drop", (event) => check(event, event.dataTransfer?.files), true);
})();
</script>
"""


def build(server: Server) -> gr.Blocks:
    """Lays the page out."""
    task = server.pipe.task
    kind = "LDIS-n" if task.name == "ldisn" else "LDIS-1"
    with gr.Blocks(title="LDIS", analytics_enabled=False, delete_cache=(CHECK_EVERY, KEEP)) as page:
        gr.Markdown(
            "# In-context segmentation\nShow an image with a mask, and get the mask of the same thing in another "
            f"image.<br><small>{kind} at {task.image_size} pixels</small>"
            + (f"<br>The model knows {server.pipe.knows}." if server.pipe.knows else "")
        )
        with gr.Tab("Image"):
            image_tab.build(server)
        with gr.Tab("Video"):
            video_tab.build(server)
    # Status updates at a steady pace; requests beyond the queue are turned away.
    page.queue(max_size=_MAX_WAITING, api_open=False)
    return page


@dataclasses.dataclass(frozen=True)
class Access:
    """Where the page is served, and to whom.

    Attributes:
        host: to serve at.
        port: to serve at; 0 is any.
        is_local: whether this machine alone reaches the host.
        names: that browsers may ask for beside the host: those of proxies.
        login: "user:password"; empty where everyone may come in.
    """

    host: str
    port: int
    is_local: bool
    names: Sequence[str] = ()
    login: str = ""


def serve(server: Server, access: Access) -> None:
    """Serves the page until it is interrupted."""
    Image.MAX_IMAGE_PIXELS = None  # our own limit is looked at before an image is decoded
    http_server.run(guarded(server, access), access.host, access.port)


def guarded(server: Server, access: Access) -> Guard:
    """The page as an ASGI app."""
    font = ("system-ui", "sans-serif")
    page = build(server)
    page.state_session_capacity = _MAX_SESSIONS
    app = gr.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        page,
        path="/",
        show_error=False,
        max_file_size=server.limits.upload_bytes,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        mcp_server=False,
        enable_monitoring=False,
        theme=gr.themes.Default(primary_hue="blue", font=font, font_mono=("ui-monospace", "monospace")),
        css=_CSS,
        head=_HEAD.replace("LIMIT", str(server.limits.upload_bytes)),
    )
    page.has_launched = True  # Gradio then looks itself, too, whether a file lies in its folder
    sessions = Sessions(server.folder, server.limits)
    sessions.sweep_always()
    requests = Requests({number: function.inputs for number, function in page.fns.items()})
    names = Names(access.host, access.is_local, access.names)
    return Guard(app, requests, sessions, server.limits.upload_bytes, names, access.login)
