"""The tab for images."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ldis_jax.demo import pictures
from ldis_jax.demo.examples import SOURCES, Example, make_examples
from ldis_jax.demo.uploads import (
    PaintedPrompt,
    read_mask_file,
    read_mask_labels,
    read_prompt,
    read_prompt_image,
    read_query,
)
from ldis_jax.demo.widgets import (
    COLOURS,
    MODEL_QUEUE,
    PRIVATE,
    Server,
    editor,
    image_input,
    ldisn_options,
    legend,
)
from ldis_jax.media.animations import is_animation
from ldis_jax.media.overlays import magnify

_NOTHING = "Nothing yet."
_HEIGHT = 360
_PSEUDO_MASK = (
    "<small>Pseudo mask: what the network renders, the object in green and all else in red. The mask is where green "
    "exceeds red.</small>"
)
_SCALE = '<span class="scale">Probability {}0 <i></i> 1</span>'


def build(server: Server) -> None:
    """Lays the tab out and connects it."""
    # The result is beside its query, where nobody has to scroll to it.
    with gr.Row():
        with gr.Column(min_width=240):
            gr.Markdown("### 1. Prompt\nAn image of the thing. Mark it with the brush, or give its mask as a file.")
            prompt, shown_prompts = _prompt_editor(server)
        with gr.Column(min_width=240):
            gr.Markdown("### 2. Query\nThe image to segment.")
            query = image_input(show_label=False, height=_HEIGHT, elem_id="query")
            run = gr.Button("Segment", variant="primary", size="lg", elem_id="segment")
            options = ldisn_options(server.pipe)
        with gr.Column(min_width=240):
            gr.Markdown("### 3. Result\nThe query with what was found.")
            overlay = _result("Overlay", show_label=False, height=_HEIGHT)
            summary = gr.HTML(_NOTHING, elem_id="summary")
            download = gr.DownloadButton("Download mask", visible=False, elem_id="download")
    with gr.Row():
        shown = [overlay, *(_result(label, height=240) for label in ("Mask", "Probability", "Pseudo mask"))]
    with gr.Row():
        scale = gr.HTML(_SCALE.format(""), elem_id="scale")
        gr.HTML(_PSEUDO_MASK, elem_id="pseudo-mask")
    choosers, examples = _examples(photographs=not server.pipe.fails_on_photographs)

    def on_example(example: Example) -> tuple[Any, ...]:
        return *_shown_prompts(example.prompts), example.query

    def on_query(path: str | None) -> None:
        with server.clear_errors():
            if path:
                read_query(path, server.limits)

    def on_run(
        path: str | None,
        painted: Any,
        mask: str | None,
        label: int | None,
        name: str,
        added: list[PaintedPrompt],
        *values: Any,
    ) -> Iterator[tuple[Any, ...]]:
        with server.clear_errors():
            image = read_query(path, server.limits)
            if path and is_animation(path):
                gr.Warning("query: holds several images; the first one is used")
            if painted["background"] or not added:  # one prompt needs no "add"
                added = pictures.add_prompt(added, read_prompt(painted, mask, name, server.limits, label))
            given = dict(zip(options, values, strict=True))
            folder = Path(tempfile.mkdtemp(dir=server.folder))
            results = pictures.segment(server.pipe, image, added, folder, **given)
            for step, result in enumerate(server.in_time(results), 1):
                steps = f"Step {step} of {given['num_steps']} &emsp; " if options and result.file is None else ""
                yield _outputs(result, steps)

    work: dict[str, Any] = {
        "fn": on_run,
        "inputs": [query, *prompt, *options.values()],
        "outputs": [summary, *shown, scale, download],
        "show_progress_on": shown[0],
        **MODEL_QUEUE,
    }
    runs = [run.click(**work)]
    for chooser, example in zip(choosers, examples, strict=True):
        chooser.click(None, js="() => window.scrollTo({top: 0})", **PRIVATE)  # to the result
        chosen = chooser.click(functools.partial(on_example, example), None, [*shown_prompts, query], **PRIVATE)
        runs.append(chosen.then(**work))
    # Nothing of the query before stays beside a new one, and a broken file is said at once.
    emptied = gr.on([query.upload, query.clear], _nothing_yet, None, work["outputs"], cancels=runs, **PRIVATE)
    emptied.then(on_query, query, None, **PRIVATE)


def _result(label: str, **keywords: Any) -> Any:
    """An image that the page shows and nobody changes."""
    return gr.Image(
        label=label, format="png", interactive=False, buttons=["download", "fullscreen"],
        elem_id=f"result-{label.split(maxsplit=1)[0].lower()}", **keywords,
    )  # fmt: skip


def _examples(photographs: bool) -> tuple[list[Any], list[Example]]:
    """Buttons below small images, and what they choose: photographs, or scenes."""
    gr.Markdown("### Examples" + f"\n{SOURCES}" * photographs)
    examples, choosers = make_examples(photographs), []
    with gr.Row():
        for example in examples:
            with gr.Column(min_width=200):
                gr.Image(
                    example.image(), format="png", show_label=False, interactive=False, height=120, buttons=[],
                    container=False,
                )  # fmt: skip
                choosers.append(gr.Button(example.title, size="sm", elem_classes="example"))
    return choosers, examples


def _prompt_editor(server: Server) -> tuple[list[Any], list[Any]]:
    """Lays out where prompts are painted and listed, and connects it.

    Returns:
        The components that reading the editor's prompt takes, those added last; and those of :func:`_shown_prompts`.
    """
    gr.HTML('<div id="prompt-alert" role="alert"></div>', elem_classes="alert", padding=False)
    canvas = editor(COLOURS[:1], sources=["upload", "clipboard"], show_label=False, height=_HEIGHT, elem_id="prompt")
    with gr.Row():
        class_name = gr.Textbox(label="Class name", value="object", max_length=60, elem_id="class")
        mask_file = gr.File(
            label="Mask file, in place of painting", file_types=["image"], height=180, elem_id="mask-file"
        )
    label = gr.Radio([], label="The mask file has several labels. Which is the object?", visible=False, elem_id="label")
    read = gr.Image(
        label="Mask file as read", format="png", height=180, interactive=False, visible=False, buttons=[],
        elem_id="mask-read",
    )  # fmt: skip
    with gr.Row():
        add = gr.Button("Add another prompt", elem_id="add")
        clear = gr.Button("Remove all", elem_id="clear")
    gallery = gr.Gallery(
        label="Prompts", format="png", columns=3,
        fit_columns=False, height=180, object_fit="contain", interactive=False,
        buttons=[], visible=False, elem_id="prompts",
    )  # fmt: skip
    added = gr.State([])
    prompt, shown = [canvas, mask_file, label, class_name, added], [added, gallery, canvas, mask_file]

    def on_mask(painted: Any, mask: str | None) -> tuple[Any, Any]:
        """Labels to choose from, where there are several, and what was read."""
        if mask is None:
            return gr.Radio([], value=None, visible=False), gr.Image(None, visible=False)
        with server.clear_errors():
            labels = read_mask_labels(mask, server.limits)
            if labels is None:
                return gr.Radio([], value=None, visible=False), on_label(painted, mask, None)
            image = read_prompt_image(painted, server.limits) if painted["background"] else None
            shares, shown = pictures.label_choices(labels, image)
            choices = [(f"{label} ({100 * share:.1f} %)", label) for label, share in shares.items()]
            return gr.Radio(choices, value=None, visible=True), gr.Image(
                shown, visible=True, height=360, show_label=False
            )

    def on_label(painted: Any, mask: str, label: int | None) -> Any:
        """The mask on its image, or alone where the image is still to come."""
        with server.clear_errors():
            shown = read_mask_file(mask, server.limits, label, gr.Info)
            if not painted["background"]:
                return gr.Image(255 * magnify((shown == 1).astype(np.uint8)), visible=True, height=180, show_label=True)
            [image] = pictures.overlaid([read_prompt(painted, mask, "", server.limits, label)])
            return gr.Image(image, visible=True, height=180, show_label=True)

    def on_add(
        painted: Any, mask: str | None, label: int | None, name: str, before: list[PaintedPrompt]
    ) -> tuple[Any, ...]:
        with server.clear_errors():
            return _shown_prompts(pictures.add_prompt(before, read_prompt(painted, mask, name, server.limits, label)))

    mask_file.change(on_mask, [canvas, mask_file], [label, read], **PRIVATE)
    label.input(on_label, [canvas, mask_file, label], read, **PRIVATE)
    add.click(on_add, prompt, shown, **PRIVATE)
    clear.click(lambda: _shown_prompts(()), None, shown, **PRIVATE)
    return prompt, shown


def _shown_prompts(prompts: Sequence[PaintedPrompt]) -> tuple[Any, ...]:
    """The prompts, their gallery in the colours of their classes (hidden while there are none), and an empty editor."""
    names = [prompt.class_name for prompt in prompts]
    items = list(zip(pictures.overlaid(prompts), names, strict=True))
    return list(prompts), gr.Gallery(items, visible=bool(items)), None, None


def _nothing_yet() -> tuple[Any, ...]:
    return _NOTHING, None, None, None, None, _SCALE.format(""), gr.DownloadButton(visible=False)


def _outputs(result: pictures.ImageResult, steps: str) -> tuple[Any, ...]:
    several = result.pseudo_mask is None
    what = "label map" if several else "mask"
    return (
        steps + legend(result.shares, result.scores),
        result.overlay,
        result.mask,
        result.probability,
        gr.Image(result.pseudo_mask, visible=not several),
        _SCALE.format("of the label that a pixel has been given: " if several else ""),
        gr.DownloadButton(f"Download {what}", value=result.file, visible=result.file is not None),
    )
