"""The flag --config of the commands that run one, and how the rest of their command line is read."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from ldis_jax.errors import LDISError

_CONFIG = config_flags.DEFINE_config_file("config", None, "file under configs/", lock_config=True)


def read_config(help_text: str) -> ConfigDict:
    """Parses the command line: the locked config of ``--config`` with every ``--config.KEY=VALUE`` in it.

    Prints ``help_text`` and ends the program where -h or --help is given.

    Raises:
        LDISError: no config, one that cannot be loaded, or an unknown flag, key or type.
    """
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text)
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
        message = message.rpartition(f"{LDISError.__name__}: ")[2]  # what a config file says, without its traceback
        message = re.sub(r' Other fields present: "\{.*\}"', "", message, flags=re.DOTALL)  # the whole config
        raise LDISError(f"bad command line or config: {message}; see --help") from error
    except Exception as error:  # whatever the code of a config file raises
        message = f"{type(error).__name__}: {error}"
        raise LDISError(f"bad command line or config: {message}; see --help") from error
    return _CONFIG.value


def config_file() -> str:
    """The config's file, as it was given."""
    return config_flags.get_config_filename(flags.FLAGS["config"]).split(":")[0]


def config_name() -> str:
    """Stem of the config's file."""
    return Path(config_file()).stem
