"""What all launch scripts have in common."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.launch.stand_ins import LAUNCH, World

SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch")])
COMMANDS = ["gke_jobset.sh", "gke_xpk.sh", "slurm.sh", "tpu_vm.sh"]
TRAIN = ["--config=c.py", "--workdir=/mnt/ldis/w"]
GOOD = {
    "tpu_vm.sh": ["--name=a", "--project=p", "--zone=z", "--accelerator_type=t", "--runtime_version=v", *TRAIN],
    "gke_jobset.sh": [
        "--name=a",
        "--context=c",
        "--image=i",
        "--accelerator=t",
        "--topology=4x4",
        "--bucket=b",
        *TRAIN,
    ],
    "gke_xpk.sh": [
        *["--name=a", "--project=p", "--zone=z", "--cluster=c", "--tpu_type=t", "--image=i", "--storage=s"],
        *TRAIN,
    ],
    "slurm.sh": ["--name=a", "--gpus_per_node=8", *TRAIN],
}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.name)
def test_launch_scripts_parse_and_stay_readable(path):
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    text = path.read_text(encoding="utf-8")
    assert "set -euo pipefail" in text or "/common.sh" in text
    assert len(text.splitlines()) <= 400 and max(map(len, text.splitlines())) <= 120
    assert path.name == "common.sh" or os.access(path, os.X_OK) or path.suffix == ".sbatch"


# Beside the interpreter first: the environment need not be activated.
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
def test_launch_scripts_pass_shellcheck():
    command = [SHELLCHECK, "--external-sources", "--source-path=SCRIPTDIR", *map(str, SCRIPTS)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("script", COMMANDS)
def test_launch_scripts_name_every_flag_in_their_help(world, script):
    result = world.run(script, "--help")
    assert result.returncode == 0 and result.stderr == ""
    text = (LAUNCH / script).read_text(encoding="utf-8").replace("\\\n", "")
    flags = set(re.findall(r"[a-z_]{3,}", text.split("\nparse_flags ")[1].split('"$@"')[0]))
    assert len(flags) > 8
    assert not {flag for flag in flags if f"--{flag}" not in result.stdout}


@pytest.mark.parametrize("script", COMMANDS)
def test_launch_scripts_accept_a_good_command(world, script):
    result = world.run(script, "run", *GOOD[script], "--dry_run")
    assert result.returncode == 0, result.stderr
    assert world.calls() == []


@pytest.mark.parametrize("script", ["slurm.sh", "tpu_vm.sh"])
def test_launch_scripts_find_the_code_whatever_cdpath_is(world, script):
    command = ["bash", f"launch/{script}", "run", *GOOD[script], "--dry_run"]
    results = [
        subprocess.run(command, cwd=world.repository, env=env, capture_output=True, text=True, check=False)
        for env in (world.environment(), world.environment(CDPATH=str(world.repository)))
    ]
    assert results[0].returncode == 0 and results[0].stdout == results[1].stdout


def without(script: str, *names: str) -> list[str]:
    return [flag for flag in GOOD[script] if flag.split("=")[0].lstrip("-") not in names]


BAD = [
    *[(script, ["run", *without(script, "name")], "--name: missing") for script in COMMANDS],
    *[(script, ["run", *without(script, "workdir")], "--workdir: missing") for script in COMMANDS],
    *[(script, ["run", *GOOD[script], "--name=a b; rm -rf ."], "lower-case letters") for script in COMMANDS],
    *[(script, ["run", *GOOD[script], "--config.seed=1"], "come after --") for script in COMMANDS],
    *[(script, ["fly", *GOOD[script]], "fly: must be run") for script in COMMANDS],
    *[(script, [], "no action: must be run") for script in COMMANDS],
    ("tpu_vm.sh", ["run", *without("tpu_vm.sh", "project")], "--project: missing"),
    ("tpu_vm.sh", ["run", *GOOD["tpu_vm.sh"], "--slices=two"], "--slices=two: must be a whole number"),
    ("tpu_vm.sh", ["run", *GOOD["tpu_vm.sh"], "--slices=0"], "--slices=0"),
    ("tpu_vm.sh", ["run", *GOOD["tpu_vm.sh"], "--slices=08"], "--slices=08: must be a whole number"),
    ("tpu_vm.sh", ["run", *GOOD["tpu_vm.sh"], "--workdir=gs://b/w"], "absolute path"),
    ("tpu_vm.sh", ["run", *GOOD["tpu_vm.sh"], "--delete=maybe"], "success, always or never"),
    ("tpu_vm.sh", ["run", *GOOD["tpu_vm.sh"], "--spot=1"], "--spot=1: unknown argument"),
    ("tpu_vm.sh", ["run", *GOOD["tpu_vm.sh"], "--zone"], "--zone: needs a value"),
    ("tpu_vm.sh", ["run", *GOOD["tpu_vm.sh"], "--name zone=x"], "unknown argument"),
    ("tpu_vm.sh", ["run", *GOOD["tpu_vm.sh"], "stray"], "stray: unknown argument"),
    ("tpu_vm.sh", ["run", *GOOD["tpu_vm.sh"], "--", "a\nb"], "line break"),
    ("gke_jobset.sh", ["run", *GOOD["gke_jobset.sh"], "--topology=4by4"], "--topology=4by4"),
    ("gke_jobset.sh", ["run", *GOOD["gke_jobset.sh"], "--topology=3x3"], "do not make hosts"),
    ("gke_jobset.sh", ["run", *GOOD["gke_jobset.sh"], "--claim=c"], "exactly one"),
    ("gke_jobset.sh", ["run", *GOOD["gke_jobset.sh"], "--workdir=/home/w"], "must be under --mount"),
    ("gke_xpk.sh", ["run", *without("gke_xpk.sh", "storage")], "--storage: missing"),
    ("slurm.sh", ["run", *GOOD["slurm.sh"], "--gpus_per_node=0"], "at least 1"),
]


@pytest.mark.parametrize(("script", "arguments", "message"), BAD, ids=lambda x: x if isinstance(x, str) else "")
def test_launch_scripts_reject_a_bad_argument_in_one_line_with_status_2(world: World, script, arguments, message):
    result = world.run(script, *arguments)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ") and len(result.stderr.splitlines()) == 1
    assert message in result.stderr and world.calls() == []


def test_dockerignore_keeps_files_that_exist():
    ignore = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignore
    kept = [line[1:] for line in ignore if line.startswith("!")]
    assert all((LAUNCH.parent / name).exists() for name in kept)
    assert {"ldis_jax", "configs", "constraints.txt", "pyproject.toml"} <= set(kept)


def test_readme_names_every_launch_recipe():
    text = (LAUNCH / "README.md").read_text(encoding="utf-8")
    assert all(f"]({name})" in text for name in [*COMMANDS, "slurm.sbatch", "Dockerfile", "jobset.yaml"])
