"""Strictness for every test: eight fake devices, no silent rank or type promotion."""

import collections
import os

from tests.compile_flags import QUICK

os.environ["JAX_PLATFORMS"] = os.environ.get("LDIS_JAX_TEST_PLATFORM", "cpu")  # "cuda": benchmarks/gpu.sh
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {QUICK}"
# Fake devices share one pool of threads, as many as devices by default. A program with two independent exchanges can
# then fill it with waiting threads and stop for ever.
os.environ["NPROC"] = "64"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import tempfile

import jax
import numpy as np
import pytest
from PIL import Image

from ldis_jax import LDISPipeline
from ldis_jax.weights import save_model
from tests import tiers
from tests.helpers import MICRO, micro_task
from tests.reference.weights import random_model

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# A program is compiled once for all workers and for all commands that tests start: workers inherit the variable. Set
# it to keep what is compiled for the next run.
if "LDIS_JAX_TEST_CACHE" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="ldis_jax_tests_")
    os.environ["LDIS_JAX_TEST_CACHE"] = _CACHE.name
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["LDIS_JAX_TEST_CACHE"]
os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(16 << 30)  # a cache with a limit is one that processes lock
jax.config.update("jax_compilation_cache_dir", os.environ["LDIS_JAX_TEST_CACHE"])
jax.config.update("jax_compilation_cache_max_size", 16 << 30)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def pytest_addoption(parser):
    parser.addoption("--store_durations", action="store_true", help="put what tests take into tests/durations.json")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items):
    """Marks the thorough tier, and begins with the files that take longest: no worker is left alone with one."""
    files = collections.Counter()
    for test, seconds in tiers.seconds().items():
        files[test.partition("::")[0]] += seconds
    for item in items:
        if tiers.is_slow(item.nodeid):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: -files[item.nodeid.partition("::")[0]])


_TOOK: dict[str, float] = collections.Counter()


def pytest_runtest_logreport(report):
    _TOOK[report.nodeid] += report.duration


def pytest_sessionfinish(session):
    if session.config.getoption("store_durations") and not hasattr(session.config, "workerinput"):
        tiers.store(_TOOK)


@pytest.fixture(scope="session")
def micro_folder(tmp_path_factory):
    """A model folder of LDIS-1 at 16 pixels with random weights."""
    folder = tmp_path_factory.mktemp("micro") / "model"
    save_model(folder, micro_task("ldis1"), random_model(MICRO["ldis1"]))
    return folder


@pytest.fixture(scope="session")
def micro_folder_ldisn(tmp_path_factory):
    """The same of LDIS-n."""
    folder = tmp_path_factory.mktemp("micro_n") / "model"
    save_model(folder, micro_task("ldisn"), random_model(MICRO["ldisn"]))
    return folder


@pytest.fixture(scope="module")
def pipe(micro_folder):
    """A pipeline of its own for every file, which may count what it compiles."""
    return LDISPipeline.from_pretrained(micro_folder)


@pytest.fixture(scope="module")
def pipe_n(micro_folder_ldisn):
    return LDISPipeline.from_pretrained(micro_folder_ldisn)


@pytest.fixture
def pictures(tmp_path):
    """A query and a prompt of different sizes, with the prompt's mask: {"query", "prompt", "mask"} -> path."""
    rng = np.random.default_rng(0)
    mask = np.zeros((40, 30), np.uint8)
    mask[10:30, 5:20] = 255
    arrays = {
        "query": rng.integers(0, 256, (24, 50, 3), np.uint8),
        "prompt": rng.integers(0, 256, (40, 30, 3), np.uint8),
        "mask": mask,
    }
    paths = {}
    for name, array in arrays.items():
        paths[name] = tmp_path / f"{name}.png"
        Image.fromarray(array).save(paths[name])
    return paths
