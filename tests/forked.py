"""Commands in interpreters of their own that are forked from one that has imported jax, in place of started."""

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers import ROOT

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.forked", "ldis_jax.training.loop", "ldis_jax.inference.predictor"])


def _run(module, arguments, folder, environment, outputs):
    for path, stream in zip(outputs, (sys.stdout, sys.stderr), strict=True):
        with Path(path).open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def command(module, *arguments, cwd=ROOT, timeout=120, env=None):
    """What ``python -m module arguments`` gives, as ``subprocess.run`` says it, in ``env`` or this one."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ("out", "err")]
        process = _CONTEXT.Process(
            target=_run, args=(module, list(map(str, arguments)), cwd, dict(env or os.environ), outputs)
        )
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
        process.join()
        out, err = (path.read_text() for path in outputs)
    return subprocess.CompletedProcess([module, *arguments], process.exitcode, out, err)
