"""Trains and evaluates.

Example:
    python -m ldis_jax.main --config=configs/tiny.py --workdir=runs/tiny [--config.train_steps=100]

Run the same command again to continue where it stopped. Results lie in the work folder: report.json, metrics.jsonl,
curves.png, pictures/, tensorboard/, checkpoints/ and model/, which ``python -m ldis_jax.segment`` takes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from ldis_jax import cli
from ldis_jax.errors import LDISError

_CONFIG = config_flags.DEFINE_config_file("config", None, "file under configs/", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "folder for results; default runs/<name of the config>")
_MULTIHOST = flags.DEFINE_bool("multihost", False, "join the other hosts of a TPU slice or SLURM job first")

_HELP = f"""{__doc__}
Flags:
  --config     file under configs/; --config.KEY=VALUE overrides a key
  --workdir    folder for results; default runs/<name of the config>
  --multihost  join the other hosts of a TPU slice or SLURM job first"""


def _parse_flags() -> tuple[ConfigDict, Path]:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(_HELP)
        sys.exit(0)
    try:
        rest = flags.FLAGS(sys.argv)[1:]
        if _CONFIG.value is None:
            raise LDISError("--config: missing; for example --config=configs/tiny.py")
        if rest:
            raise LDISError(f"{rest[0]}: unknown argument; see --help")
        _CONFIG.value.to_dict()  # a config file that could not be loaded raises here, not on parsing
    except LDISError:
        raise
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        message = str(error).replace("\\n", " ").replace("\\'", "'").strip("'")  # as the text of a KeyError needs
        raise LDISError(f"bad command line or config: {message}; see --help") from error
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]).stem
    return _CONFIG.value, Path(_WORKDIR.value or Path("runs") / name)


def _print_report(report: dict[str, Any], workdir: Path) -> None:
    name = report["evaluation_set"]
    print(f"\n{name}: {report['episodes']} episodes, hash {report['episodes_hash']}")
    print(f"{'':<16} {'mIoU':>7} {'FB-IoU':>7}")
    rows = {"LDIS": report, **report["baselines"]}
    for row, values in rows.items():
        print(f"{row:<16} {values['miou']:7.2f} {values['fb_iou']:7.2f}")
    for key, value in report["other_sets"].items():
        print(f"{key:<16} {value:7.2f}")
    if report["prompt_swap"] is not None:
        print(f"{'prompt swap':<16} {report['prompt_swap']:7.3f}")
    print(f"{report['steps']} steps in {report['seconds']:.0f} s; model in {workdir / 'model'}")


def main() -> None:
    """Entry point."""
    config, workdir = _parse_flags()

    import jax

    jax.config.update("jax_num_cpu_devices", config.cpu_devices)  # only possible before the first use of a device
    if _MULTIHOST.value:
        jax.distributed.initialize()

    from ldis_jax.train import train

    _print_report(train(config, workdir), workdir)


if __name__ == "__main__":
    cli.run(main)
