"""The tables of docs/speed.md, of the figures that the benchmarks left in docs/speed/.

python benchmarks/speed.py --json=docs/speed/cpu.json
python benchmarks/tpu_networks.py --json=docs/speed/tpu_networks.json
python benchmarks/startup.py --model=random --json=docs/speed/startup.json
python benchmarks/checkpoint.py --config=configs/tiny.py --every=50 --json=docs/speed/checkpoint.json
python benchmarks/autoencoders.py --vae=taesd --data=coco_mini --json=docs/speed/autoencoders.json
python tools/speed_tables.py
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ldis_jax.support.files import atomic_write

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "speed.md"
_FIGURES = _PAGE.with_suffix("")


def _table(*rows: Iterable[Any]) -> str:
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * lines[0].count(" | ") + " --- |", *lines[1:]])


def _beside_torch(rows: list[dict[str, Any]]) -> str:
    def name(row: dict[str, Any]) -> str:
        kind, count = row["part"].split("/")
        return {
            "ldis1": f"LDIS-1, predict, batch {count}",
            "ldisn": f"LDIS-n, predict, {row['num_steps']} steps, guidance, K = {count}",
            "train": f"LDIS-1, training step, batch {count}",
        }[kind]

    head = ("work", "ours, s", "torch, s", "time", "of the rounds", "ours, GB", "torch, GB", "memory")
    return _table(
        head,
        *(
            (
                name(row),
                *(f"{row[side]['seconds']:.2f}" for side in ("jax", "torch")),
                f"**{row['time_ratio']:.2f}**",
                " ".join(f"{ratio:.2f}" for ratio in row["time_ratios"]),
                *(f"{row[side]['peak_bytes'] / 1e9:.1f}" for side in ("jax", "torch")),
                f"**{row['memory_ratio']:.2f}**",
            )
            for row in rows
        ),
    )


def _networks(rows: list[dict[str, Any]]) -> str:
    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        peer = row["peer_ms"]
        beside = (f"{peer:.1f}", f"**{row['ms'] / peer:.2f}**") if peer else ("", "")
        return (row["network"], f"{row['ms']:.1f}", *beside, f"{row['mfu']:.2f}", f"{row['gigabytes_accessed']:.1f}")

    return _table(("network", "ours, ms", "peer, ms", "ratio", "MFU", "GB accessed"), *map(cells, rows))


def _autoencoders(figures: dict[str, Any]) -> str:
    def cells(row: dict[str, Any]) -> tuple[str, ...]:
        masks = ("weights not at hand",) * 2 if row["miou"] is None else (f"{row[k]:.1f}" for k in ("miou", "fb_iou"))
        return row["network"], *masks, *(f"{row[f'{part}_seconds']:.2f}" for part in ("encode", "decode"))

    head = ("autoencoder", "mIoU of its masks", "FB-IoU", "encode, s", "decode, s")
    return _table(head, *map(cells, figures["rows"]))


def _startup(figures: dict[str, Any]) -> str:
    masks = [(f"first mask, {state}", f"{value:.1f}") for state, value in figures["first_mask"].items()]
    helps = [(f"`python -m ldis_jax.{name} --help`", f"{value:.2f}") for name, value in figures["help"].items()]
    return _table(("process", "seconds"), *masks, *helps)


def _checkpoint(figures: dict[str, Any]) -> str:
    times = {kind: statistics.median(values) for kind, values in figures["seconds_a_step"].items()}
    period = figures["checkpoint_every"] * times["without"]
    head = ("config", "state, MB", "a step, ms", "a save costs, ms", "saves every", "of the time")
    row = (f"`{figures['config']}`", f"{figures['state_bytes'] / 1e6:.0f}", f"{1e3 * times['without']:.0f}")
    row += (f"{1e3 * figures['seconds_a_save']:.0f}", f"{figures['checkpoint_every']} steps")
    return _table(head, (*row, f"**{figures['seconds_a_save'] / period:.1%}**"))


TABLES: dict[str, Callable[[Any], str]] = {
    "cpu": _beside_torch,
    "tpu_networks": _networks,
    "autoencoders": _autoencoders,
    "startup": _startup,
    "checkpoint": _checkpoint,
}


def main() -> None:
    """Writes the page again."""
    text = _PAGE.read_text(encoding="utf-8")
    for path in sorted(_FIGURES.glob("*.json")):
        start, end = f"<!-- table: {path.stem} -->", "<!-- end -->"
        before, rest = text.split(start)
        made = TABLES[path.stem](json.loads(path.read_text()))
        text = f"{before}{start}\n\n{made}\n\n{end}{rest.partition(end)[2]}"
    with atomic_write(_PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
