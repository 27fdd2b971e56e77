"""The flag --config of the commands that run one, and how the rest of their command line is read."""

from __future__ import annotations

import itertools
import re
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from ldis_jax.errors import LDISError
from ldis_jax.support.files import checked_file

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "file under configs/; --config.KEY=VALUE overrides a key", lock_config=True
)
flags.register_validator("config", lambda config: config is not None, "missing; for example --config=configs/tiny.py")


def read_config(description: str | None, own: Sequence[flags.FlagHolder[Any]]) -> ConfigDict:
    """Parses the command line: the locked config of ``--config`` with every ``--config.KEY=VALUE`` in it.

    Prints the description and the flags, the command's ``own`` too, and ends the program where -h or --help is given.

    Raises:
        LDISError: no config, one that cannot be loaded, or an unknown flag, key or type.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        texts = (f"  --{flag.name:<14}  {flags.FLAGS[flag.name].help}" for flag in (_CONFIG, *own))
        print(description, "Flags:", *texts, sep="\n")
        sys.exit(0)
    for before, argument in itertools.pairwise(sys.argv):
        if before in ("-config", "--config") or re.match("--?config=", argument):
            checked_file(argument.rpartition("=")[2].partition(":")[0])
    try:
        rest = flags.FLAGS(sys.argv)[1:]
        _CONFIG.value.to_dict()  # a config file that could not be loaded raises here, not on parsing
    except Exception as error:  # whatever the code of a config file raises
        why = _moved(sys.argv[1:]) or _in_short(error)
        raise LDISError(f"bad command line or config: {why}; see --help") from error
    if rest:
        raise LDISError(f"{rest[0]}: unknown argument; see --help")
    return _CONFIG.value


def config_file() -> str:
    """The config's file as it was given, with its variant."""
    return config_flags.get_config_filename(flags.FLAGS["config"])


def config_name() -> str:
    """The name of a run: the variant of a file that holds many (``VARIANTS``), else the file's stem."""
    file, _, variant = config_file().partition(":")
    variant = variant.partition(":")[0]  # configs/ablations.py:VARIANT:FOLDER
    named = variant and variant in runpy.run_path(file).get("VARIANTS", ())
    return variant if named else Path(file).stem


def _moved(arguments: Sequence[str]) -> str:
    """Names the variant that a config file of before has become; empty where there is none."""
    for argument in arguments:
        path = Path(argument.rpartition("=")[2])
        file = f"{path.parent}.py"
        if path.suffix == ".py" and not path.exists() and Path(file).is_file():
            return f"no such file {path}; give --config={file}:{path.stem}"
    return ""


def _in_short(error: Exception) -> str:
    """The core of an error of the command line or of a config file."""
    if not isinstance(error, (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError)):
        return f"{type(error).__name__}: {error}"
    message = str(error).replace("\\n", " ").replace("\\'", "'").strip("'")  # as the text of a KeyError needs
    message = message.rpartition(f"{LDISError.__name__}: ")[2]  # what a config file says, without its traceback
    return re.sub(r' Other fields present: "\{.*\}"', "", message, flags=re.DOTALL).strip()  # the whole config
