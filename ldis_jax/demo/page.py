"""The page as a whole, and the server."""

from __future__ import annotations

import os
from pathlib import Path

import gradio as gr
from PIL import Image

from ldis_jax.demo import image_tab, script, video_tab
from ldis_jax.demo.uploads import Limits
from ldis_jax.demo.widgets import Server
from ldis_jax.pipeline import LDISPipeline

_MAX_WAITING, _MAX_SESSIONS = 16, 32
_CHECK_EVERY, _KEEP_FILES = 600, 3600  # seconds
_CSS = """
.gradio-container { width: 100%; max-width: 1180px !important; margin: 0 auto !important; }
.alert:has([role=alert]:empty) { display: none; }
.alert [role=alert] { border-left: .25em solid #ef4444; padding: .3em .8em; font-weight: 600; }
.legend { display: inline-flex; align-items: center; gap: .4em; margin: .1em 1.2em .1em 0; }
.legend i { width: .9em; height: .9em; border-radius: .2em; outline: 1px solid rgba(128, 128, 128, .6); }
.scale { display: flex; align-items: center; gap: .6em; font-size: .85em; opacity: .85; }
.scale i { flex: none; width: 9em; height: .7em; border-radius: .2em;
  background: linear-gradient(90deg, #00224e, #35456c, #666970, #948e77, #c8b866, #fee838); }
"""


def build(server: Server) -> gr.Blocks:
    """Lays the page out."""
    task = server.pipe.task
    kind = "LDIS-n" if task.name == "ldisn" else "LDIS-1"
    with gr.Blocks(title="LDIS", analytics_enabled=False, delete_cache=(_CHECK_EVERY, _KEEP_FILES)) as page:
        gr.Markdown(
            "# In-context segmentation\nShow a picture with a mask, and get the mask of the same thing in another "
            f"picture.<br><small>{kind} at {task.image_size} pixels</small>"
            + (f"<br>{server.about}" if server.about else "")
        )
        with gr.Tab("Image"):
            image_tab.build(server)
        with gr.Tab("Video"):
            video_tab.build(server)
    # Status updates at a steady pace; requests beyond the queue are turned away.
    page.queue(max_size=_MAX_WAITING, api_open=False)
    return page


def serve(pipe: LDISPipeline, limits: Limits, host: str, port: int, about: str = "") -> None:
    """Serves the page until it is interrupted; uploads and results lie in GRADIO_TEMP_DIR.

    Args:
        pipe: the model.
        limits: of uploads.
        host: address to serve at.
        port: of that address.
        about: a line on the model to show under the title.
    """
    Image.MAX_IMAGE_PIXELS = None  # our own limit is looked at before a picture is decoded
    font = ("system-ui", "sans-serif")
    page = build(Server(pipe, limits, Path(os.environ["GRADIO_TEMP_DIR"]), about))
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        max_file_size=limits.upload_bytes,
        state_session_capacity=_MAX_SESSIONS,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        theme=gr.themes.Default(primary_hue="blue", font=font, font_mono=("ui-monospace", "monospace")),
        css=_CSS,
        head=script.head(limits.upload_bytes),
    )
    print(f"serving at {page.local_url}; Ctrl-C ends it", flush=True)
    page.block_thread()
