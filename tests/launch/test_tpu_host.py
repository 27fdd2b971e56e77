"""``tpu_host.sh`` and its lock: who trains, who prepares, who only looks."""

import shutil
import subprocess
from pathlib import Path

from tests.launch.stand_ins import World
from tests.launch.test_tpu_vm import BREAK_OFF, MAIN, NONE, SLICE, run, states, steps, trained


def host(world: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    """tpu_host.sh on a host that is the world's folder."""
    return world.run("tpu_host.sh", arguments[0], "n", *arguments[1:])


def hold(lock: Path, seconds: str, how: str = "--exclusive") -> subprocess.Popen:
    """A process that holds the lock for so long."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(["flock", how, lock, "sh", "-c", f"echo; exec sleep {seconds}"], stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_tpu_host_does_not_take_one_who_only_looks_for_training(world):
    world.script({"ldis_jax.main": [{"term": 143}]})
    base = world.folder / "ldis/n"
    looking = hold(base / "lock", "2", "--shared")
    assert host(world, "status", "1-1").stdout == "ldis-host none 0 1-1\n"
    (base / "code").mkdir()
    (base / "venv/bin").mkdir(parents=True)
    (base / "venv/bin/python").symlink_to(world.folder / "bin/python3")
    assert host(world, "start", "1-1", *MAIN[2:]).returncode == 0
    assert looking.wait() == 0
    world.wait_for_work()
    assert trained(world) == [MAIN]
    assert host(world, "stop", "9").returncode == 0


def test_tpu_host_status_says_done_of_training_that_ends_while_one_looks(world):
    base = world.folder / "ldis/n"
    base.mkdir(parents=True)
    (base / "lock").touch()
    (base / "id").write_text("1-1\n")
    flock = world.folder / "bin/flock"
    flock.write_text(f"#!/bin/sh\necho 0 >'{base}/status'\nexec /usr/bin/flock \"$@\"\n")
    flock.chmod(0o755)
    assert host(world, "status", "1-1").stdout == "ldis-host done 0 1-1\n"


def test_tpu_host_stop_waits_until_what_it_killed_has_let_go(world):
    letting_go = hold(world.folder / "ldis/n/lock", "2")
    assert host(world, "stop", "0").returncode == 0
    assert letting_go.wait(0.5) == 0


def test_tpu_vm_run_never_takes_code_from_under_training_that_began_meanwhile(world):
    world.script(states(NONE, "ACTIVE", "ACTIVE", BREAK_OFF) | {"ldis_jax.main": [{"term": 143}]})
    run(world)
    world.wait_for_work()
    code = world.folder / "hosts/run-1/0/ldis/run-1/code"
    inode = code.stat().st_ino

    world.script(states("ACTIVE", "ACTIVE", BREAK_OFF) | {"tpu_host.sh status": [{"out": "ldis-host none 0 -\n"}, {}]})
    again = run(world)
    assert "looking again" in again.stderr and "training runs; following" in again.stderr
    assert code.stat().st_ino == inode and len(trained(world)) == 1
    assert world.run("tpu_vm.sh", "stop", *SLICE, "--stop_seconds=9").returncode == 0


def test_tpu_vm_run_waits_for_hosts_that_another_prepares(world):
    base = world.folder / "hosts/run-1/0/ldis/run-1"
    (base / "code/launch").mkdir(parents=True)
    shutil.copy(world.repository / "launch/tpu_host.sh", base / "code/launch")
    preparing = hold(base / "lock", "4")
    world.script(states("ACTIVE"))
    result = run(world, "--poll_seconds=1")
    assert result.returncode == 0 and "the hosts are being prepared already; waiting" in result.stderr
    assert steps(world) == ["scp", "prepare", "start", "train", "delete"]
    assert preparing.poll() == 0


def test_tpu_vm_run_prepares_a_host_again_whose_code_did_not_arrive(world):
    bases = [world.folder / f"hosts/run-1/{worker}/ldis/run-1" for worker in range(2)]
    for base in bases:
        (base / "code/launch").mkdir(parents=True)
    shutil.copy(world.repository / "launch/tpu_host.sh", bases[1] / "code/launch")
    identity = "".join(f"{argument}\0" for argument in MAIN[2:])
    identity = subprocess.run(["cksum"], input=identity, capture_output=True, text=True, check=True).stdout
    (bases[1] / "id").write_text(identity.replace(" ", "-"))  # it was killed
    world.script(states("ACTIVE"))
    result = run(world, "--max_failures=0", workers=2)
    assert result.returncode == 0, result.stderr
    assert len(trained(world)) == 2


def test_tpu_vm_setup_may_leave_a_process_running_without_holding_the_lock(world):
    world.script(states("ACTIVE"))
    result = run(world, "--setup=sleep 20 >/dev/null 2>&1 &")
    assert result.returncode == 0, result.stderr
    assert len(trained(world)) == 1
