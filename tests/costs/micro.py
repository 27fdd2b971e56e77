"""The smallest run, as a config file; its networks come with --config.init.folder."""

from tests.helpers import micro_config


def get_config():
    """See ``micro_config``."""
    return micro_config("set on the command line")
