"""launch/slurm.sh and the job that it submits."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.launch.stand_ins import World

JOB = ["--name=run-1", "--nodes=2", "--gpus_per_node=4"]
TRAIN = ["--config=configs/ldis1.py", "--workdir=/shared/it's $HOME; exit 3"]
OVERRIDES = ["--config.mesh.fsdp=4", "--config.init.folder=/shared/my weights/*"]
MAIN = ["-m", "ldis_jax.main", "--multihost", "--stopped_status=75", *TRAIN, *OVERRIDES]

TOLD = [["scancel", "--signal=TERM", "17"], ["srun", "SIGTERM"]]


def submit(world: World, *more: str) -> subprocess.CompletedProcess[str]:
    return world.run("slurm.sh", "run", *JOB, *TRAIN, *more, "--", *OVERRIDES)


def test_slurm_run_submits_a_fresh_job(world):
    result = submit(world, "--time=24:00:00", "--sbatch_flag=--mem=0")
    assert result.returncode == 0, result.stderr
    root = str(world.repository)
    assert world.calls() == [
        ["squeue", "--me", "--name=run-1", "--noheader", "--format=%i"],
        [
            *["sbatch", "--job-name=run-1", "--nodes=2", "--gpus-per-node=4", f"--chdir={root}", "--time=24:00:00"],
            *["--dependency=singleton", "--mem=0", f"{root}/launch/slurm.sbatch", *TRAIN, *OVERRIDES],
        ],
    ]


def test_slurm_run_does_not_submit_a_job_twice_that_waits_or_runs(world):
    world.script({"squeue": [{"out": "17\n"}]})
    result = submit(world)
    assert result.returncode == 0 and "job 17 waits or runs already" in result.stderr
    assert len(world.calls()) == 1


@pytest.mark.parametrize(("failing", "count"), [("squeue", 1), ("sbatch", 2)])
def test_slurm_run_reports_a_failure_of_slurm_with_its_status(world, failing, count):
    world.script({failing: [{"status": 6}]})
    result = submit(world)
    assert result.returncode == 6 and "error: exit status 6 of" in result.stderr
    assert len(world.calls()) == count


def test_slurm_dry_run_calls_nothing_and_can_be_pasted(world):
    result = submit(world, "--dry_run")
    assert result.returncode == 0 and world.calls() == []
    assert world.paste(result.stdout).returncode == 0
    assert world.calls()[1][-4:] == [*TRAIN, *OVERRIDES]


def test_slurm_stop_cancels_the_job(world):
    assert world.run("slurm.sh", "stop", "--name=run-1").returncode == 0
    assert world.calls() == [["scancel", "--me", "--name=run-1"]]


def start(world: World, **more: str) -> subprocess.Popen[str]:
    """The job's script, as SLURM starts it."""
    slurm = {"SLURM_JOB_ID": "17", "SLURM_GPUS_ON_NODE": "4", "LDIS_PYTHON": sys.executable, "LDIS_GRACE": "9"} | more
    script = str(world.repository / "launch" / "slurm.sbatch")
    return subprocess.Popen(["bash", script, *TRAIN, *OVERRIDES], env=world.environment(**slurm), text=True)


def test_slurm_sbatch_trains_on_all_gpus_of_a_node(world):
    tell = world.folder / "bin" / "srun"
    tell.write_text(tell.read_text().replace("record([name", 'record([os.environ["JAX_LOCAL_DEVICE_IDS"], name', 1))
    assert start(world).wait(20) == 0
    assert world.calls() == [["0,1,2,3", "srun", "--gpu-bind=none", sys.executable, *MAIN]]


@pytest.mark.parametrize(("asked", "given"), [({"SLURM_CPUS_PER_TASK": "32"}, "32"), ({}, "")])
def test_slurm_sbatch_gives_its_tasks_the_cpus_of_the_job(world, asked, given):
    tell = world.folder / "bin" / "srun"
    tell.write_text(
        tell.read_text().replace("record([name", 'record([os.environ.get("SRUN_CPUS_PER_TASK", ""), name', 1)
    )
    assert start(world, **asked).wait(20) == 0
    assert world.calls()[0][:2] == [given, "srun"]


@pytest.mark.parametrize("status", [1, 2])
def test_slurm_sbatch_does_not_requeue_a_trainer_that_fails(world, status):
    world.script({"srun": [{"status": status}]})
    assert start(world).wait(20) == status
    assert [argv[0] for argv in world.calls()] == ["srun"]


@pytest.mark.parametrize(("status", "put_back"), [(75, True), (143, True), (1, True), (0, False), (2, False)])
def test_slurm_sbatch_tells_the_trainer_and_requeues_when_time_runs_out(world, status, put_back):
    world.script({"srun": [{"term": status}]})
    job = start(world)
    world.wait_for_work()
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == status
    assert world.calls()[1:3] == TOLD
    assert world.calls()[3:] == ([["scontrol", "requeue", "17"]] if put_back else [])


def test_slurm_sbatch_requeues_though_the_trainer_is_deaf_to_sigterm(world):
    world.script({"srun": [{"term": 75}]})
    deaf = world.folder / "bin" / "srun"
    deaf.write_text(deaf.read_text().replace('sys.exit(answer["term"])', "time.sleep(2)"))
    job = start(world, LDIS_GRACE="0")
    world.wait_for_work()
    job.send_signal(signal.SIGUSR1)
    deadline = time.time() + 20
    while ["scontrol", "requeue", "17"] not in world.calls() and time.time() < deadline:
        time.sleep(0.05)
    assert ["scontrol", "requeue", "17"] in world.calls() and job.poll() is None
    job.kill()
    job.wait()


def test_slurm_sbatch_tells_the_trainer_of_a_cancelled_job_and_does_not_requeue(world):
    world.script({"srun": [{"term": 75}]})
    job = start(world)
    world.wait_for_work()
    job.terminate()
    assert job.wait(20) == 75
    assert world.calls()[1:] == TOLD


def test_slurm_sbatch_does_not_requeue_for_ever(world):
    world.script({"srun": [{"term": 75}]})
    job = start(world, SLURM_RESTART_COUNT="3", LDIS_MAX_REQUEUES="3")
    world.wait_for_work()
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 75
    assert world.calls()[1:] == TOLD


def test_slurm_sbatch_says_that_it_finds_no_python(world, tmp_path: Path):
    script = str(world.repository / "launch" / "slurm.sbatch")
    environment = world.environment(SLURM_JOB_ID="17", LDIS_PYTHON="no such python")
    result = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "LDIS_PYTHON=no such python" in result.stderr
    assert world.calls() == []
