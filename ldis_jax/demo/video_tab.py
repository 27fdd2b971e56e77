"""The tab for videos."""

from __future__ import annotations

import html
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from ldis_jax.demo import videos
from ldis_jax.demo.uploads import read_labels
from ldis_jax.demo.widgets import COLOURS, MODEL_QUEUE, PRIVATE, Server, editor, ldisn_options


def build(server: Server) -> None:
    """Lays the tab out and connects it."""
    with gr.Row():
        with gr.Column():
            gr.Markdown("### 1. Video\nMP4, WebM, MOV, AVI or MKV.")
            video = gr.Video(sources=["upload"], show_label=False, height=340, buttons=[], elem_id="video")
            animation = gr.UploadButton(
                "Take an animation (GIF, WebP, PNG, AVIF)", size="sm", elem_id="animation",
                file_types=[".gif", ".webp", ".png", ".apng", ".avif", ".avifs"],
            )  # fmt: skip
        with gr.Column():
            gr.Markdown("### 2. Objects\nPaint over them on the first frame, one colour an object.")
            canvas = editor(COLOURS, sources=(), show_label=False, height=340, elem_id="first-frame")
    options = ldisn_options(server.pipe)
    with gr.Row():
        run = gr.Button("Segment the video", variant="primary", size="lg", scale=3, elem_id="segment-video")
        stop = gr.Button("Stop", size="lg", scale=1, elem_id="stop-video")
    gr.Markdown("### 3. Result")
    status = gr.HTML("Nothing yet.", elem_id="video-status")
    with gr.Row():
        latest = gr.Image(label="Latest frame", format="jpeg", interactive=False, height=320, buttons=[])
        overlay = gr.Video(label="Overlay", interactive=False, height=320, buttons=["download"], elem_id="overlay")
    masks = gr.DownloadButton("Download masks (zip of PNGs)", visible=False, elem_id="masks")

    def on_upload(path: str | None) -> Any:
        if path is None:
            return None
        with server.clear_errors():
            return {"background": videos.first_frame(path, server.limits), "layers": [], "composite": None}

    def on_animation(path: str) -> str:
        with server.clear_errors():
            folder = Path(tempfile.mkdtemp(dir=server.folder))
            return str(videos.film_of(path, server.limits, folder, server.in_time))

    def on_run(path: str | None, painted: Any, *values: Any) -> Iterator[tuple[Any, ...]]:
        with server.clear_errors():
            labels = read_labels({**painted, "background": path and painted["background"]}, server.limits)
            given = dict(zip(options, values, strict=True))
            folder = Path(tempfile.mkdtemp(dir=server.folder))
            results = videos.segment(server.pipe, path or "", labels, server.limits, folder, **given)
            for now in server.in_time(results):
                of = f" of {now.total}" if now.total else ""
                yield (
                    "<br>".join([f"{now.done}{of} frames", *map(html.escape, now.notes)]),
                    now.overlay,
                    now.video,
                    gr.DownloadButton(value=now.masks, visible=now.masks is not None),
                )

    animation.upload(on_animation, animation, video, **PRIVATE)
    video.change(on_upload, video, canvas, **PRIVATE)
    work = run.click(
        on_run, [video, canvas, *options.values()], [status, latest, overlay, masks], show_progress_on=latest,
        **MODEL_QUEUE,
    )  # fmt: skip
    stop.click(lambda: "Stopped.", None, status, cancels=work, **PRIVATE)
