"""The tables of docs/tpu.md: what recipes and options cost on TPU slices, by ``python -m ldis_jax.compile``.

    python tools/tpu_table.py --minutes=60

compiles the cells that docs/tpu/ does not have yet, one after the other, for about as long as it is told, stores each
as a JSON file, and writes the tables of all that are there. A full-size program takes minutes. ``--only=ldis1`` limits
it to cells whose name starts so; ``--refresh`` compiles them again.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

_CELLS = ROOT / "docs" / "tpu"
_PAGE = ROOT / "docs" / "tpu.md"
# What stands between these comments is written here.
_RECIPES = ("<!-- table: tools/tpu_table.py -->", "<!-- end of table -->")
_OPTIONS = ("<!-- options: tools/tpu_table.py -->", "<!-- end of options -->")
_FEWEST = {"v5e": "v5e:1x1", "v6e": "v6e:1x1", "v5p": "v5p:2x2x1"}
_LDIS1_VARIANTS = "configs/ablations.py:ldis1_"
# Gradients of kernels are rounded to bfloat16 by the products that make them, whatever they are stored in.
_GRADS, _MOMENTS = "--config.step.grad_dtype=bfloat16", "--config.optim.moment_dtype=bfloat16"


def recipe(config: str) -> str:
    """Short name of a value of --config: its variant, or else the file's stem."""
    return Path(config.rpartition(":")[2]).stem


@dataclasses.dataclass(frozen=True)
class Cell:
    """One row: a config on a slice."""

    config: str
    topology: str
    batch_size: int
    options: tuple[str, ...] = ()
    slices: int = 1
    name: str = ""  # tells apart cells that differ in their options alone

    @property
    def chips(self) -> int:
        """Of all slices."""
        return math.prod(map(int, self.topology.partition(":")[2].split("x"))) * self.slices

    @property
    def smallest(self) -> Cell:
        """What stands for this cell's prediction: as many images a chip on the fewest chips.

        A prediction's chips work alone, on whole networks: its program is the same on any number of them but for the
        exchange of the results, 0.8 MB an image. A model trained with another loss, or with LoRA and merged, predicts
        by LDIS-1's program.
        """
        kind = self.topology.partition(":")[0]
        config = "configs/ldis1.py" if self.config.startswith(_LDIS1_VARIANTS) else self.config
        fewest = Cell(config, _FEWEST[kind], 0)
        return dataclasses.replace(fewest, batch_size=self.batch_size * fewest.chips // self.chips)

    def path(self, program: str) -> Path:
        """Of its figures."""
        where = self.topology.replace(":", "_") + (f"_x{self.slices}" if self.slices > 1 else "")
        name = f"-{self.name}" if self.name else ""
        return _CELLS / f"{recipe(self.config)}-{where}-{self.batch_size}-{program}{name}.json"

    def command(self, program: str, out: Path) -> list[str]:
        """Compiles one program into a JSON file."""
        flags = [f"--config={self.config}", f"--topology={self.topology}", f"--config.mesh.slices={self.slices}"]
        flags += [f"--program={program}", f"--batch_size={self.batch_size}", f"--json={out}", *self.options]
        return [sys.executable, "-m", "ldis_jax.compile", *flags]


def _fsdp(size: int) -> tuple[str, ...]:
    return (_GRADS, f"--config.mesh.fsdp={size}")


def cells() -> list[Cell]:
    """All rows, the most telling first."""
    found = []
    for config in ("configs/ldis1.py", "configs/ldisn.py"):
        found += [
            Cell(config, "v5e:1x1", 8, (_GRADS, _MOMENTS)),
            Cell(config, "v5e:2x2", 64, (_MOMENTS, *_fsdp(4))),
            Cell(config, "v6e:1x1", 64, (_GRADS, _MOMENTS)),
            Cell(config, "v5e:4x4", 64, _fsdp(16)),
            Cell(config, "v5e:16x16", 1024, _fsdp(16)),
            Cell(config, "v6e:2x4", 64, _fsdp(8)),
            Cell(config, "v5p:2x2x1", 64, _fsdp(4)),
            Cell(config, "v5p:4x4x4", 256, _fsdp(16)),
            Cell(config, "v5e:16x16", 2048, _fsdp(16), slices=2),
        ]
    for config in ("configs/ablations.py:ldis1_pixel", "configs/ablations.py:ldis1_lora_rank4"):
        found += [
            Cell(config, "v5e:1x1", 8, (_GRADS, _MOMENTS)),
            Cell(config, "v5e:2x2", 64, (_MOMENTS, *_fsdp(4))),
            Cell(config, "v5e:4x4", 64, _fsdp(16)),
        ]
    return found


def option_cells() -> dict[str, Cell]:
    """Option -> the recipe with it alone, where all of them fit: LDIS-1 on four v5p chips that share one state."""
    shared = ("--config.mesh.fsdp=4",)
    flags = {
        "none": ("none", shared),
        "`mesh.fsdp=1`": ("fsdp1", ()),
        '`remat="dots"`': ("dots", (*shared, "--config.remat=dots")),
        '`remat="blocks"`': ("blocks", (*shared, "--config.remat=blocks")),
        '`optim.moment_dtype="bfloat16"`': ("moments", (*shared, _MOMENTS)),
        "`step.accumulate=4`": ("accumulate", (*shared, "--config.step.accumulate=4")),
        "`step.ema_decay=0.9999`": ("ema", (*shared, "--config.step.ema_decay=0.9999")),
    }
    found = {
        option: Cell("configs/ldis1.py", "v5p:2x2x1", 64, options, name=name)
        for option, (name, options) in flags.items()
    }
    return found | {'`step.grad_dtype="bfloat16"`': Cell("configs/ldis1.py", "v5p:2x2x1", 64, _fsdp(4))}


def measure(cell: Cell, program: str) -> None:
    """Compiles one program of a cell and stores its figures."""
    path = cell.path(program)
    temporary = path.with_suffix(".tmp.json")
    start = time.time()
    result = subprocess.run(cell.command(program, temporary), check=False, cwd=ROOT, capture_output=True, text=True)
    if result.returncode not in (0, 1) or not temporary.exists():
        print(f"{path.stem}: {(result.stderr or result.stdout).strip()[-300:]}", file=sys.stderr)
        return
    cost = json.loads(temporary.read_text())[program]
    versions = {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    from ldis_jax.support.files import write_json

    write_json(path, {**cost, "options": list(cell.options), "versions": versions})
    temporary.unlink()
    print(f"{path.stem}: {time.time() - start:.0f} s", flush=True)


def _compiled(cell: Cell, program: str) -> Cell:
    return cell.smallest if program == "predict" else cell


def recipes_table() -> str:
    """Markdown of the cells that are there."""
    head = "| run | slice | batch | options | GB a chip | TFLOP a chip | predicted ms | exchanged MB | predicted MFU |"
    rows = [head, "| --- " * (head.count("|") - 1) + "|"]
    for cell in cells():
        for program in ("train", "predict"):
            path = _compiled(cell, program).path(program)
            if path.is_file():
                rows.append(_row(cell, json.loads(path.read_text())))
    return "\n".join(rows)


def _row(cell: Cell, cost: dict[str, Any]) -> str:
    fits = "" if cost["fits"] else " (does not fit)"
    values = (
        # Cells of before the schedule was read know only all of the exchange; the page says what else was different.
        f"{recipe(cell.config)} {cost['program']}" + ("" if "predicted_unhidden_ms" in cost else " †"),
        cell.topology + (f" x {cell.slices}" if cell.slices > 1 else ""),
        cell.batch_size,
        " ".join(f"`{option.removeprefix('--config.')}`" for option in cost["options"] if option != _GRADS) or "none",
        f"{cost['peak_bytes'] / 1e9:.1f} of {cost['chip_bytes'] / 1e9:.0f}{fits}",
        f"{cost['flops'] / 1e12:.2f}",
        *_times(cost),
        f"{cost['predicted_mfu']:.2f}" if cost["predicted_mfu"] else "?",
    )
    return "| " + " | ".join(map(str, values)) + " |"


def _times(cost: dict[str, Any]) -> tuple[str, str]:
    """Predicted milliseconds and MB exchanged; unknown of a program that the compiler refused."""
    if cost["predicted_ms"] is None:
        return "?", "?"
    unhidden = cost.get("predicted_unhidden_ms", cost["predicted_exchange_ms"])
    milliseconds = f"{cost['predicted_compute_ms']:.0f} + {unhidden:.0f}"
    return milliseconds, f"{sum(c['bytes'] for c in cost['collectives']) / 1e6:.0f}"


def options_table() -> str:
    """Markdown of what each option alone makes of a training step; nothing where the step without is not compiled."""
    base = option_cells()["none"]
    if not base.path("train").is_file():
        return ""
    rows = [
        f"Each alone, on the training step of `{recipe(base.config)}` with {base.batch_size} images on "
        f"`{base.topology}` and `mesh.fsdp=4`, where all of them fit; predicted, as above:",
        "",
    ]
    rows += ["| option | GB a chip | predicted ms | exchanged MB |", "| --- | --- | --- | --- |"]
    for option, cell in option_cells().items():
        if cell.path("train").is_file():
            cost = json.loads(cell.path("train").read_text())
            rows.append("| " + " | ".join((option, f"{cost['peak_bytes'] / 1e9:.1f}", *_times(cost))) + " |")
    return "\n".join(rows)


def page(text: str) -> str:
    """The page with its tables as the cells have them."""
    recipes = "\n\n".join(filter(None, [recipes_table(), "\n".join(_weak_scaling())]))
    for (start, end), section in ((_RECIPES, recipes), (_OPTIONS, options_table())):
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n\n{section}\n\n".rstrip("\n") + f"\n\n{end}{rest.partition(end)[2]}"
    return text


def _weak_scaling() -> list[str]:
    """Sentences on training with as many images a chip on 16 and on 256 chips, for recipes that have both."""
    sentences = []
    for config in dict.fromkeys(cell.config for cell in cells()):
        pair = [cell for cell in cells() if cell.config == config and cell.topology in ("v5e:4x4", "v5e:16x16")]
        paths = [cell.path("train") for cell in pair if cell.slices == 1]
        if len(paths) == 2 and all(path.is_file() for path in paths):
            cells_of_pair = [json.loads(path.read_text()) for path in paths]
            if len({"predicted_unhidden_ms" in cell for cell in cells_of_pair}) > 1:
                continue  # what they count differs
            few, many = (cell["predicted_ms"] for cell in cells_of_pair)
            sentences.append(
                f"* Weak scaling, four images a chip: from `v5e:4x4` to `v5e:16x16` a step of `{recipe(config)}` "
                f"goes from {few:.1f} to {many:.1f} ms, {100 * few / many:.0f} %."
            )
    return sentences


def main() -> None:
    """Compiles and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0, help="how long to go on compiling; 0 only writes the table")
    parser.add_argument("--only", default="", help="cells whose name starts so")
    parser.add_argument("--program", choices=("train", "predict"), help="only these programs")
    parser.add_argument("--refresh", action="store_true", help="compile what is there again")
    args = parser.parse_args()
    _CELLS.mkdir(parents=True, exist_ok=True)
    end = time.time() + 60 * args.minutes
    wanted = [(_compiled(cell, program), program) for program in ("train", "predict") for cell in cells()]
    wanted += [(cell, "train") for cell in option_cells().values()]
    for cell, program in dict.fromkeys(wanted):
        path = cell.path(program)
        chosen = path.name.startswith(args.only) and args.program in (None, program)
        if chosen and time.time() < end and (args.refresh or not path.is_file()):
            measure(cell, program)
    from ldis_jax.support.files import atomic_write

    with atomic_write(_PAGE) as temporary:
        temporary.write_text(page(_PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
