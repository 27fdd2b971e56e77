"""LDIS-n's options of prediction, declared once for the API, the command line, the web page and the docs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple


class Option(NamedTuple):
    """An option of prediction; its default is the model's own, a field of its task."""

    type: type
    help: str
    choices: Mapping[str, str] = {}  # value -> its name for people; empty where any value of the type does
    static: bool = False  # another value is another program; others are arrays, and compile nothing
    label: str = ""  # on the web page; empty where the page does not show it
    range: tuple[float, float, float] = (0, 1, 0.1)  # (least, most, step) of the page's slider


OPTIONS: dict[str, Option] = {
    "num_steps": Option(int, "network evaluations", static=True, label="Steps", range=(1, 100, 1)),
    "prompt_guidance_scale": Option(
        float, "guidance by the prompt, s_t of the paper's eq. 10", label="Guidance by the prompt", range=(0, 15, 0.1)
    ),
    "image_guidance_scale": Option(
        float, "guidance by the query, s_q of the paper's eq. 10", label="Guidance by the query", range=(0, 15, 0.1)
    ),
    "sampler": Option(
        str,
        "how a step follows from the one before",
        {"ddpm": "DDPM", "ddim": "DDIM", "dpmpp_2m": "DPM-Solver++"},
        static=True,
        label="Sampler",
    ),
    "timestep_spacing": Option(
        str,
        "which of the noise schedule's timesteps are taken",
        {"leading": "leading", "trailing": "trailing"},
        static=True,
    ),
    "guidance_start": Option(float, "share of the steps from which eq. 10 guides", static=True),
    "guidance_end": Option(float, "and to which; other steps cost a third", static=True),
}
STATIC = tuple(name for name, option in OPTIONS.items() if option.static)
SCALES = tuple(name for name, option in OPTIONS.items() if not option.static)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """A flag an option; :func:`given_options` reads them."""
    group = parser.add_argument_group("LDIS-n only (defaults come with the model)")
    for name, option in OPTIONS.items():
        group.add_argument(f"--{name}", type=option.type, choices=tuple(option.choices) or None, help=option.help)


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of :func:`add_flags` that were given."""
    return {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
