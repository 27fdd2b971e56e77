"""launch/tpu_vm.sh and the host's side of it, against a gcloud that runs ssh commands in a folder a host."""

import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from tests.launch.stand_ins import LAUNCH, World, make_repository

SLICE = ["--name=run-1", "--project=my-project", "--zone=us-east5-b"]
FLAGS = [*SLICE, "--accelerator_type=v5litepod-16", "--runtime_version=v2-alpha-tpuv5-lite", "--poll_seconds=0"]
TRAIN = ["--config=configs/ldis1.py", "--workdir=/mnt/runs/it's $HOME; exit 3", "--allow_local_workdir"]
OVERRIDES = ["--config.mesh.fsdp=4", "--config.init.folder=/mnt/my weights/*"]
MAIN = ["-m", "ldis_jax.main", TRAIN[0], TRAIN[1], "--multihost", "--stopped_status=143", *OVERRIDES]
NONE = {"status": 1, "err": "ERROR: (gcloud.compute.tpus.queued-resources.describe) NOT_FOUND: Resource was not found"}
DESCRIBE = "queued-resources describe"


def states(*names: str | dict) -> dict:
    """Answers to the queued resource's `describe`."""
    return {DESCRIBE: [n if isinstance(n, dict) else {"out": f"{n}\n"} for n in names]}


def run(world: World, *more: str, workers: int = 1):
    return world.run("tpu_vm.sh", "run", *FLAGS, *TRAIN, *more, "--", *OVERRIDES, workers=workers)


def steps(world: World) -> list[str]:
    """What was done, in short: the verb of gcloud, of tpu_host.sh or of the trainer; looking left out."""
    found = []
    for argv in world.calls():
        if argv[0] == "gcloud":
            word = argv[4]
            host = re.search(r"tpu_host\.sh (\w+)", argv[-1])
            found.append(host[1] if word == "ssh" and host else word)
        elif argv[1:3] == ["-m", "ldis_jax.main"]:
            found.append("train")
    return [step for step in found if step not in ("describe", "status")]


def trained(world: World) -> list[list[str]]:
    return [argv[1:] for argv in world.calls() if argv[1:3] == ["-m", "ldis_jax.main"]]


def test_tpu_vm_run_creates_uploads_trains_and_deletes(world):
    world.script(states(NONE, "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"))
    result = run(world, "--spot", "--create_flag=--reserved", workers=2)
    assert result.returncode == 0, result.stderr
    assert steps(world) == ["create", "scp", "prepare", "start", "train", "train", "delete"]
    assert trained(world) == [MAIN, MAIN]  # a host each, every argument whole
    place = ["--project=my-project", "--zone=us-east5-b"]
    queued = ["gcloud", "compute", "tpus", "queued-resources"]
    gcloud = [argv for argv in world.calls() if argv[0] == "gcloud"]
    assert gcloud[0] == [*queued, "describe", "run-1", *place, "--format=value(state.state)"]
    assert gcloud[1] == [
        *[*queued, "create", "run-1", *place, "--accelerator-type=v5litepod-16"],
        *["--runtime-version=v2-alpha-tpuv5-lite", "--node-id=run-1", "--spot", "--reserved", "--quiet"],
    ]
    assert gcloud[-1] == [*queued, "delete", "run-1", *place, "--force", "--quiet"]
    scp = next(argv for argv in gcloud if argv[4] == "scp")
    alive = "flag=-oServerAliveInterval=30"  # without it, an ssh to a VM that is gone never ends
    assert scp[6:] == ["run-1:ldis-run-1.tar.gz", *place, "--worker=all", "--quiet", f"--scp-{alive}"]
    assert all(argv[6:-1] == [*place, "--worker=all", "--quiet", f"--ssh-{alive}"] for argv in gcloud if "ssh" in argv)
    installed = next(argv for argv in world.calls() if argv[1:4] == ["-m", "uv", "pip"])
    assert installed[-4:] == ["-c", "constraints.txt", "-e", ".[tpu]"]


def test_tpu_vm_run_prepares_all_slices_before_any_starts(world):
    world.script(states(NONE, "ACTIVE"))
    result = run(world, "--slices=2")
    assert result.returncode == 0, result.stderr
    create = world.calls()[1]
    assert create[-3:] == ["--node-count=2", "--node-prefix=run-1", "--quiet"]
    order = [step for step in steps(world) if step in ("prepare", "start", "train")]
    assert order[:2] == ["prepare"] * 2 and order.count("start") == order.count("train") == 2
    nodes = {argv[5] for argv in world.calls() if argv[:5] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh"]}
    assert nodes == {"run-1-0", "run-1-1"}


BREAK_OFF = "SOMETHING_NEW"  # a state that the script does not know; it stops there and leaves all as it is


def test_tpu_vm_run_follows_training_that_runs_and_does_not_start_it_twice(world):
    world.script(states(NONE, "ACTIVE", "ACTIVE", BREAK_OFF) | {"ldis_jax.main": [{"term": 143}]})
    first = run(world)
    assert first.returncode == 1 and "unknown state SOMETHING_NEW" in first.stderr
    assert "the slice is kept and billed" in first.stderr
    world.wait_for_work()
    assert steps(world) == ["create", "scp", "prepare", "start", "train"]

    world.forget()
    world.script(states("ACTIVE", "ACTIVE", BREAK_OFF))
    again = run(world)
    assert "training runs; following" in again.stderr
    assert steps(world) == []

    world.script(states("ACTIVE"))
    other = world.run("tpu_vm.sh", "run", *FLAGS, *TRAIN, "--", "--config.seed=1")
    assert other.returncode == 1 and "another command trains on run-1" in other.stderr
    assert steps(world) == []

    assert world.run("tpu_vm.sh", "stop", *SLICE, "--stop_seconds=9").returncode == 0
    assert ["python", "SIGTERM"] in world.calls()
    world.script(states("ACTIVE"))
    status = world.run("tpu_vm.sh", "status", *SLICE)
    assert "run-1: ACTIVE" in status.stderr and "ldis-host failed 143" in status.stdout


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (states("ACTIVE") | {"tpu_host.sh status": [{"out": "ldis-host running 0 1-1\n"}]}, "another command trains"),
        (states("ACTIVE") | {"tpu_host.sh status": [{"status": 255}]}, "the hosts do not answer"),
        (states("ACTIVE", BREAK_OFF) | {"ldis_jax.main": [{"status": 1}]}, "unknown state SOMETHING_NEW"),
    ],
    ids=["another's", "not seen", "unknown state"],
)
def test_tpu_vm_run_never_deletes_training_that_may_run_unseen(world, answers, message):
    world.script(answers)
    result = run(world, "--delete=always")
    assert result.returncode != 0 and message in result.stderr and "the slice is kept and billed" in result.stderr
    assert "delete" not in steps(world)


def test_tpu_vm_stop_kills_a_trainer_deaf_to_sigterm(world):
    world.script(states(NONE, "ACTIVE", "ACTIVE", BREAK_OFF) | {"ldis_jax.main": [{"term": 143}]})
    run(world)
    world.wait_for_work()
    started = time.time()
    assert world.run("tpu_vm.sh", "stop", *SLICE, "--stop_seconds=0").returncode == 0
    world.script(states("ACTIVE"))
    status = world.run("tpu_vm.sh", "status", *SLICE)
    assert "ldis-host running" not in status.stdout and time.time() - started < 10


@pytest.mark.parametrize("gone", ["SUSPENDED", "FAILED"])
def test_tpu_vm_run_asks_again_for_a_slice_taken_away_and_goes_on(world, gone):
    world.script(
        states(NONE, "ACTIVE", "ACTIVE", "SUSPENDING", gone, NONE, "PROVISIONING", "ACTIVE")
        | {"ldis_jax.main": [{"term": 143}, {"status": 0}]}
    )
    result = run(world)
    assert result.returncode == 0, result.stderr
    once = ["create", "scp", "prepare", "start", "train", "delete"]
    assert steps(world) == once * 2
    assert trained(world) == [MAIN, MAIN]  # the same command: it resumes from its checkpoint


def test_tpu_vm_run_replaces_an_old_request_that_ended(world):
    world.script(states("SUSPENDED", NONE, "ACTIVE"))
    assert run(world).returncode == 0
    assert steps(world) == ["delete", "create", "scp", "prepare", "start", "train", "delete"]


def test_tpu_vm_run_gives_a_new_slice_the_commit_that_it_began_with(tmp_path):
    repository = make_repository(tmp_path / "code")
    world = World(tmp_path, repository)
    world.script(
        states(NONE, "ACTIVE", "SUSPENDED", NONE, "ACTIVE") | {"ldis_jax.main": [{"status": 143}, {"status": 0}]}
    )
    git = f"git -C '{repository}' -c user.name=a -c user.email=a@example.org"
    commit = f"echo late >'{repository}/late'; {git} add late; {git} commit -q -m two"
    result = run(world, f"--setup={commit} || true")
    assert result.returncode == 0, result.stderr
    assert steps(world).count("scp") == 2 and (repository / "late").exists()
    assert not (tmp_path / "hosts/run-1/0/ldis/run-1/code/late").exists()


def test_tpu_vm_run_asks_for_nothing_without_a_git_checkout(tmp_path):
    shutil.copytree(LAUNCH, tmp_path / "code/launch")
    world = World(tmp_path, tmp_path / "code")
    result = run(world)
    assert result.returncode == 128 and "error: exit status 128 of: git -C" in result.stderr
    assert world.calls() == []


def test_tpu_vm_run_notices_a_preempted_node_before_the_queued_resource_tells(world):
    world.script(
        states(NONE, "ACTIVE", "ACTIVE", NONE, "ACTIVE")
        | {"tpu_host.sh status": [{}, {"status": 255}, {}], "tpu-vm describe": [{"out": "PREEMPTED"}]}
    )
    result = run(world)
    assert result.returncode == 0, result.stderr
    assert steps(world).count("create") == 2


def test_tpu_vm_run_stops_following_at_ctrl_c_and_says_that_the_slice_costs(world):
    world.script(states("WAITING_FOR_RESOURCES"))
    script = str(world.repository / "launch" / "tpu_vm.sh")
    # A shell cannot trap what it found ignored, as tests that run in the background do.
    command = ["env", "--default-signal=INT", "bash", script, "run", *FLAGS, "--poll_seconds=30", *TRAIN]
    process = subprocess.Popen(
        command, env=world.environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not world.calls():
        time.sleep(0.02)
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "training that has begun goes on" in stderr and "the slice is kept and billed" in stderr


def test_tpu_vm_run_counts_no_failure_when_training_ends_with_its_slice(world):
    world.script(
        states(NONE, "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", NONE, "ACTIVE")
        | {"ldis_jax.main": [{"status": 143}, {"status": 0}]}
    )
    result = run(world, "--max_failures=0")
    assert result.returncode == 0, result.stderr
    assert steps(world).count("train") == 2


def test_tpu_vm_run_does_not_ask_again_for_a_slice_that_someone_else_deleted(world):
    world.script(states(NONE, "PROVISIONING", "DELETING", NONE))
    result = run(world)
    assert result.returncode == 1 and "deleted by someone else" in result.stderr
    assert steps(world) == ["create"]


def test_tpu_vm_run_starts_failed_training_again_so_often_and_then_reports_it(world):
    failure = {"status": 1, "out": "the last words\n"}
    world.script(states(NONE, "ACTIVE") | {"ldis_jax.main": [failure]})
    result = run(world, "--max_failures=1")
    assert result.returncode == 1
    assert "training failed" in result.stderr and "with status 1" in result.stderr
    assert "the last words" in result.stderr and "the slice is kept" in result.stderr
    assert steps(world).count("train") == 2 and "delete" not in steps(world)


def test_tpu_vm_run_does_not_try_bad_input_to_the_trainer_again(world):
    world.script(states(NONE, "ACTIVE") | {"ldis_jax.main": [{"status": 2, "err": "error: no such config\n"}]})
    result = run(world, "--delete=always")
    assert result.returncode == 2 and "error: no such config" in result.stderr
    assert steps(world).count("train") == 1 and steps(world)[-1] == "delete"

    world.forget()
    world.script(states("ACTIVE"))  # the same slice, kept; the user mended something
    assert run(world).returncode == 0
    assert steps(world).count("train") == 1


@pytest.mark.parametrize(
    ("failing", "last"),
    [
        (DESCRIBE, "describe"),
        ("queued-resources create", "create"),
        ("tpu-vm scp", "scp"),
        ("tpu_host.sh start", "ssh"),
    ],
)
def test_tpu_vm_run_reports_a_failure_of_gcloud_with_its_status_and_ends(world, failing, last):
    world.script(states(NONE, "ACTIVE") | {failing: [{"status": 7, "err": "gcloud says no\n"}]})
    result = run(world)
    assert result.returncode == 7
    assert "gcloud says no" in result.stderr and "error: exit status 7 of" in result.stderr
    done = [argv[4] for argv in world.calls() if argv[0] == "gcloud" and argv[4] != "describe"]
    assert (done or ["describe"])[-1] == last and "train" not in steps(world)


@pytest.mark.parametrize("failing", ["tpu-vm scp", "tpu_host.sh prepare", "tpu_host.sh start", "uv pip install"])
def test_tpu_vm_run_tries_a_start_again_that_fails_once(world, failing):
    status = 2 if failing.startswith("uv") else 255  # uv's own 2 may be the network
    world.script(states(NONE, "ACTIVE") | {failing: [{"status": status}, {}]})
    result = run(world)
    assert result.returncode == 0, result.stderr
    assert "could not start training; trying again" in result.stderr
    assert steps(world).count("train") == 1 and steps(world).count("create") == 1


def test_tpu_vm_run_counts_starts_that_fail_in_a_row(world):
    fails, works = {"status": 255}, {}
    start = [fails, works, fails, works]
    world.script(states(NONE, "ACTIVE") | {"tpu-vm scp": start, "ldis_jax.main": [{"status": 1}, {"status": 0}]})
    assert run(world, "--max_failures=1").returncode == 0

    world.script(states("ACTIVE") | {"tpu-vm scp": [fails]})
    result = world.run("tpu_vm.sh", "run", *FLAGS, *TRAIN, "--max_failures=1")
    assert result.returncode == 255 and "error: could not start training" in result.stderr


def test_tpu_vm_run_asks_again_for_a_slice_taken_away_while_it_is_prepared(world):
    world.script(
        states(NONE, "ACTIVE", "SUSPENDING", "SUSPENDED", NONE, "ACTIVE") | {"tpu-vm scp": [{"status": 1}, {}]}
    )
    result = run(world, "--max_failures=0")
    assert result.returncode == 0, result.stderr
    assert steps(world).count("create") == 2


def test_tpu_vm_run_starts_nothing_beside_what_cannot_be_stopped(world):
    world.script(
        states(NONE, "ACTIVE")
        | {"ldis_jax.main": [{"status": 1}, {"term": 143}, {"status": 0}], "tpu_host.sh stop": [{"status": 255}, {}]}
    )
    result = run(world, workers=2)
    assert result.returncode == 0, result.stderr
    done = steps(world)
    assert done[done.index("stop") :][:5] == ["stop", "stop", "scp", "prepare", "start"]


def test_tpu_vm_run_makes_a_failed_request_again_so_often_in_a_row(world):
    failed = [NONE, "PROVISIONING", "FAILED"]
    training = {"ldis_jax.main": [{"status": 143}, {"status": 0}]}
    world.script(states(*failed, NONE, "ACTIVE", "SUSPENDED", *failed, NONE, "ACTIVE") | training)
    shutil.copy(world.folder / "bin/gcloud", world.folder / "bin/sleep")
    result = run(world, "--max_failures=1")
    assert result.returncode == 0, result.stderr
    assert steps(world).count("create") == 4
    deleted = next(i for i, argv in enumerate(world.calls()) if "delete" in argv)
    assert world.calls()[deleted - 1] == ["sleep", "0"]  # it does not ask again at once

    world.forget()
    world.script(states(*failed * 2))
    result = run(world, "--max_failures=1", "--delete=always")
    assert result.returncode == 1 and "error: the request for run-1 failed 2 times" in result.stderr
    assert "costs" not in result.stderr  # there is no slice
    assert steps(world) == ["create", "delete", "create"]


def test_tpu_vm_run_asks_again_without_end_for_a_slice_that_was_active(world):
    gone = [NONE, "ACTIVE", "SUSPENDING", "FAILED"]
    world.script(states(*gone * 3, BREAK_OFF) | {"ldis_jax.main": [{"term": 143}]})
    result = run(world, "--max_failures=0")
    assert "unknown state" in result.stderr
    assert steps(world).count("create") == 3


UNAVAILABLE = {"status": 1, "err": "ERROR: UNAVAILABLE: try again\n"}
CREATE, DELETE = "queued-resources create", "queued-resources delete"


@pytest.mark.parametrize(
    ("answers", "done"),
    [
        (
            states("ACTIVE", "SUSPENDED", NONE, NONE, "ACTIVE") | {CREATE: [UNAVAILABLE, {}]},
            ["delete", "create", "create"],
        ),
        (
            states("ACTIVE", "SUSPENDED", "SUSPENDED", NONE, "ACTIVE") | {DELETE: [UNAVAILABLE, {}]},
            ["delete", "delete", "create"],
        ),
        # Another follows, too, and was faster.
        (states("ACTIVE", "SUSPENDED", NONE, "ACTIVE") | {DELETE: [NONE, {}]}, ["delete", "create"]),
    ],
    ids=["create", "delete", "deleted already"],
)
def test_tpu_vm_run_goes_on_after_one_refusal_of_the_cloud_after_a_preemption(world, answers, done):
    world.script(answers | {"ldis_jax.main": [{"status": 143}, {"status": 0}]})
    result = run(world)
    assert result.returncode == 0, result.stderr
    once = ["scp", "prepare", "start", "train"]
    assert steps(world) == [*once, *done, *once, "delete"]


def test_tpu_vm_run_looks_again_at_a_description_that_lags_behind(world):
    world.script(states(NONE, NONE, "ACTIVE") | {CREATE: [{}, {"status": 1, "err": "ERROR: ALREADY_EXISTS\n"}]})
    result = run(world)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("then", "deletions"), [("ACTIVE", 2), (NONE, 1)], ids=["failed", "seemed to fail"])
def test_tpu_vm_run_deletes_a_slice_though_the_first_deletion_fails(world, then, deletions):
    done = {"tpu_host.sh status": [{"out": "ldis-host done 0 1-1\n"}]}
    world.script(states("WAITING_FOR_RESOURCES", "ACTIVE", then) | done | {DELETE: [UNAVAILABLE, {}]})
    result = run(world)
    assert result.returncode == 0, result.stderr
    assert steps(world) == ["delete"] * deletions


def test_tpu_vm_run_ends_when_the_cloud_goes_on_refusing(world):
    world.script(states("WAITING_FOR_RESOURCES", "SUSPENDED") | {DELETE: [UNAVAILABLE]})
    result = run(world)
    assert result.returncode == 1 and "error: exit status 1 of: gcloud" in result.stderr
    assert steps(world) == ["delete"] * 6


def test_tpu_vm_delete_reports_a_failure(world):
    world.script(states("ACTIVE") | {"queued-resources delete": [{"status": 3}]})
    assert world.run("tpu_vm.sh", "delete", *SLICE).returncode == 3


def test_tpu_vm_delete_of_nothing_is_no_error(world):
    world.script(states(NONE))
    assert world.run("tpu_vm.sh", "delete", *SLICE).returncode == 0
    assert steps(world) == []


def test_tpu_vm_run_rejects_a_work_folder_that_would_go_with_the_vm(world):
    world.script(states(NONE, "ACTIVE"))
    result = world.run("tpu_vm.sh", "run", *FLAGS, "--config=c.py", f"--workdir={world.folder}/runs")
    assert result.returncode == 2 and "would go with it" in result.stderr
    assert steps(world) == ["create", "scp", "prepare"]


def test_tpu_vm_setup_runs_on_every_host_first(world):
    world.script(states(NONE, "ACTIVE"))
    result = run(world, """--setup=echo "it's done" > "$HOME/set up" && false""")
    assert result.returncode == 1 and "train" not in steps(world)
    assert (world.folder / "hosts/run-1/0/set up").read_text() == "it's done\n"


def test_tpu_vm_dry_run_prints_commands_to_paste_and_calls_nothing(world):
    result = run(world, "--dry_run", "--slices=2")
    assert result.returncode == 0, result.stderr
    assert world.calls() == []
    verbs = re.findall(r"^gcloud compute tpus \S+ (\w+)|^(git) ", result.stdout, re.M)
    expected = "describe create describe ssh ssh git scp scp ssh ssh ssh ssh describe ssh ssh delete"
    assert [a or b for a, b in verbs] == expected.split()

    create = next(line for line in result.stdout.splitlines() if " create " in line)
    start = next(line for line in result.stdout.splitlines() if "tpu_host.sh start" in line)
    home = world.folder / "hosts/run-1-0/0"
    (home / "ldis/run-1/code/launch").mkdir(parents=True)
    (home / "ldis/run-1/code/launch/tpu_host.sh").write_text('printf "%s\\n" "$@" > "$HOME/given"')
    pasted = world.paste(start)
    assert pasted.returncode == 0, pasted.stderr
    assert (home / "given").read_text().splitlines()[3:] == MAIN[2:]
    assert world.paste(create).returncode == 0
    assert world.calls()[-1][:6] == ["gcloud", "compute", "tpus", "queued-resources", "create", "run-1"]
