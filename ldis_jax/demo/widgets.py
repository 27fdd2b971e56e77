"""Parts that the page's tabs share: editors, LDIS-n's options, legends and clear errors."""

from __future__ import annotations

import contextlib
import dataclasses
import html
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr

from ldis_jax.demo.sessions import folder_bytes
from ldis_jax.demo.uploads import Limits
from ldis_jax.errors import LDISError
from ldis_jax.media.overlays import PALETTE
from ldis_jax.pipeline import LDISPipeline
from ldis_jax.support.prediction_options import OPTIONS, Option

COLOURS = ["#" + bytes(colour).hex() for colour in PALETTE]
# All that runs the model waits in one line.
MODEL_QUEUE: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "api_visibility": "private"}
# Quick ones; with progress they would lay a box over the editor at each mistake.
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class Server:
    """The state that every request needs.

    Attributes:
        pipe: the model.
        limits: of uploads.
        folder: Gradio's, for uploads and results; what is in it may be downloaded.
    """

    pipe: LDISPipeline
    limits: Limits
    folder: Path

    def in_time(self, results: Iterable[_Result]) -> Iterator[_Result]:
        """Results as they come, until they take too long or too much of the disk.

        Raises:
            LDISError: what the limits say.
        """
        end, look = time.monotonic() + 60 * self.limits.minutes, 0.0
        for result in results:
            if time.monotonic() > end:
                raise LDISError(f"Stopped after {self.limits.minutes:g} minutes; use the command line for longer runs")
            if time.monotonic() > look:
                look = time.monotonic() + 10
                if folder_bytes(self.folder) > self.limits.total_mb * 2**20:
                    raise LDISError("Stopped: the server's disk is full; files are kept for an hour, try again later")
            yield result

    @contextlib.contextmanager
    def clear_errors(self) -> Iterator[None]:
        """Shows a user's mistake in the page as its one line, which names uploads without their folder."""
        try:
            yield
        except (LDISError, OSError, SyntaxError) as error:  # the last is PIL's, of damaged PNGs
            said = (
                str(error)
                if isinstance(error, LDISError)
                else f"A file cannot be read or written ({error}); drop it again"
            )
            line = re.sub(rf"{re.escape(str(self.folder))}\S*/", "", " ".join(said.split()))
            raise gr.Error(line, print_exception=False) from None


def image_input(**keywords: Any) -> Any:
    """An image whose path our functions get; Gradio would open the file first, and fail in words of its own."""
    component: Any = gr.Image(type="filepath", format="png", sources=["upload", "clipboard"], **keywords)
    component.preprocess = lambda payload: payload and payload.path
    return component


def editor(colours: list[str], **keywords: Any) -> Any:
    """An image to paint on; our functions get {"background": path, "layers": paths}, opened by nobody before."""
    component: Any = gr.ImageEditor(
        format="png",
        brush=gr.Brush(colors=[*colours], color_mode="fixed"),
        layers=False,
        transforms=(),
        buttons=["fullscreen"],
        **keywords,
    )

    def paths(payload: Any) -> dict[str, Any]:
        if payload is None:
            return {"background": None, "layers": []}
        layers = [layer.path for layer in payload.layers or () if layer is not None]
        return {"background": payload.background and payload.background.path, "layers": layers}

    component.preprocess = paths
    return component


def ldisn_options(pipe: LDISPipeline) -> dict[str, Any]:
    """Name -> component of what LDIS-n takes to predict; none of LDIS-1."""
    task: Any = pipe.task
    if task.name != "ldisn":
        return {}
    with gr.Accordion("Sampling", open=True), gr.Group():
        shown = {name: option for name, option in OPTIONS.items() if option.label}
        components = {name: _component(option, getattr(task, name)) for name, option in shown.items()}
        return components | {"seed": gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1)}


def _component(option: Option, value: Any) -> Any:
    if option.choices:
        return gr.Radio([(name, key) for key, name in option.choices.items()], value=value, label=option.label)
    least, most, step = option.range
    return gr.Slider(least, most, value, step=step, label=option.label)


def legend(shares: Mapping[str, float], scores: Mapping[str, float]) -> str:
    """HTML: every class with its colour, its share of the image and the score of its mask."""
    rows = zip(shares.items(), COLOURS, strict=False)
    return "".join(
        f'<span class="legend"><i style="background:{colour}"></i>{html.escape(name)} '
        f"<b>{f'{100 * share:.1f} %' if share else 'not there'}</b> score {scores[name]:.2f}</span>"
        for (name, share), colour in rows
    )
