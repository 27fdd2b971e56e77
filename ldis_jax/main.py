"""Trains and evaluates.

Examples:
    python -m ldis_jax.main --config=configs/tiny.py --workdir=runs/tiny [--config.train_steps=100]
    python -m ldis_jax.main --config=configs/finetune.py:small --config.data.folder=my_images --workdir=runs/mine

docs/train.md lists the configs, ldis_jax/config.py their keys.
Run the same command again to continue where it stopped; SIGTERM stops it after a checkpoint. Results lie in the work
folder: report.md with all that people look at, report.json, metrics.jsonl, curves.png, pictures/, tensorboard/,
checkpoints/ and model/, which ``python -m ldis_jax.segment`` takes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from ldis_jax.errors import LDISError
from ldis_jax.support import cli
from ldis_jax.support.checks import MOST_PROCESSES, check_integer
from ldis_jax.support.config_flag import config_name, read_config

_WORKDIR = flags.DEFINE_string("workdir", None, "folder for results; default runs/<name of the config>")
_MULTIHOST = flags.DEFINE_bool("multihost", False, "join the other hosts of a TPU slice, GKE or SLURM job first")
_STOPPED_HELP = "exit status where SIGTERM stopped the run; default 0, which some clusters take as finished"
_STOPPED = flags.DEFINE_integer("stopped_status", 0, _STOPPED_HELP, lower_bound=0)


def _print_report(report: dict[str, Any], workdir: Path) -> None:
    name = report["evaluation_set"]
    print(f"\n{name}: {report['episodes']} episodes, hash {report['episodes_hash']}")
    print(f"{'':<16} {'mIoU':>7} {'FB-IoU':>7}")
    before = {"before training": report["before"]} if "before" in report else {}
    rows = {"LDIS": report, **before, **report["baselines"]}
    for row, values in rows.items():
        print(f"{row:<16} {values['miou']:7.2f} {values['fb_iou']:7.2f}")
    for key, value in report["other_sets"].items():
        print(f"{key:<16} {value:7.2f}")
    if report["prompt_swap"] is not None:
        print(f"{'prompt swap':<16} {report['prompt_swap']:7.3f}")
    print(f"{report['steps']} steps in {report['seconds']:.0f} s; model in {workdir / 'model'}")
    print("".join(f"{line}\n" for line in report["advice"]), end="")


def _check_folder(config: ConfigDict) -> None:
    """Says what is in a folder of images, before any weight is read."""
    from ldis_jax.datasets.folder_check import check_folder, report_lines

    if not config.data.folder:
        raise LDISError("--config.data.folder: missing; name the folder of your images and masks")
    checked = check_folder(config.data.folder)
    print("\n".join(report_lines(checked)), flush=True)
    checked.require_usable(config.data.skip_bad)


def main() -> None:
    """Entry point."""
    config = read_config(__doc__, (_WORKDIR, _MULTIHOST, _STOPPED))
    if "folder" in config.data:
        _check_folder(config)
    workdir = Path(_WORKDIR.value or Path("runs") / config_name())

    import jax

    check_integer("config.cpu_devices", config.cpu_devices, maximum=MOST_PROCESSES)
    # Both are only possible before the first use of a device.
    if config.cpu_devices > 1:  # else XLA_FLAGS may say how many
        jax.config.update("jax_num_cpu_devices", config.cpu_devices)
    if config.cpu_devices > 1 and config.mesh.fsdp != 1:
        # The devices share one pool of threads, one a device by default. Sharded parameters make several exchanges at
        # once, which could fill it with waiting threads for ever; the gradients alone are one. More threads cost 15 %.
        os.environ.setdefault("NPROC", str(8 * config.cpu_devices))
    from ldis_jax.runtime import memory, multihost, preemption

    with preemption.ended_at_once(_STOPPED.value):
        if _MULTIHOST.value:
            multihost.join()

        from ldis_jax.training.loop import train

        with multihost.end_at_once(), memory.explained(config):
            report = train(config, workdir)
    if report is None:
        sys.exit(_STOPPED.value)
    if jax.process_index() == 0:
        _print_report(report, workdir)


if __name__ == "__main__":
    cli.run(main)
