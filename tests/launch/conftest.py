"""Launch scripts run against stand-ins, never against the programs themselves."""

from pathlib import Path

import pytest

from tests.launch.stand_ins import World, make_repository


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a space in its name."""
    return make_repository(tmp_path_factory.mktemp("launch") / "my code")


@pytest.fixture
def world(tmp_path: Path, repository: Path) -> World:
    """Stand-ins that answer nothing and succeed."""
    return World(tmp_path, repository)
