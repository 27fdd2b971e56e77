"""What a run is called when it has no --workdir. How --config is read: tests/test_commands.py, as its users do."""

import pytest

from ldis_jax.support import config_flag
from tests.helpers import ROOT


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("configs/tiny.py", "tiny"),
        ("configs/ablations.py:ldisn_vanilla", "ldisn_vanilla"),
        ("configs/ablations.py:ldisn_vanilla:/share/records", "ldisn_vanilla"),
        ("configs/evidence.py:joint_lora4", "joint_lora4"),
        ("configs/finetune.py:lora", "finetune"),
        ("configs/voc_small.py:data/voc", "voc_small"),
    ],
)
def test_config_name_is_that_of_the_variant_or_the_file(monkeypatch, given, name):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(config_flag, "config_file", lambda: given)
    assert config_flag.config_name() == name
