"""launch/gke_jobset.sh and launch/gke_xpk.sh."""

import subprocess

import pytest
import yaml

from tests.launch.stand_ins import World

TRAIN = ["--config=configs/ldis1.py", '--workdir=/mnt/ldis/runs/it\'s "one" $HOME']
OVERRIDES = ["--config.mesh.fsdp=4", "--config.init.folder=/mnt/ldis/$(WEIGHTS)/a \\ b; @IMAGE@ & {c}: #d"]
MAIN = [*TRAIN, "--multihost", "--stopped_status=143", *OVERRIDES]

JOBSET = ["--name=run-1", "--context=gke_p_z_c", "--image=europe-docker.pkg.dev/p/r/ldis:tpu"]
JOBSET += ["--accelerator=tpu-v6e-slice", "--topology=4x8", "--bucket=my-bucket", "--service_account=trainer"]
KUBECTL = ["kubectl", "--context=gke_p_z_c", "--namespace=default"]
DELETE = [*KUBECTL, "delete", "jobset", "run-1", "--ignore-not-found", "--wait", "--cascade=foreground"]  # and its Pods
GET = "get jobset"


def jobset(world: World, *more: str, action: str = "run") -> subprocess.CompletedProcess[str]:
    return world.run("gke_jobset.sh", action, *JOBSET, *TRAIN, *more, "--", *OVERRIDES)


def pod(manifest: dict) -> dict:
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def expand(text: str) -> str:
    """As Kubernetes does, with no variable defined."""
    return text.replace("$$", "$")


def test_gke_jobset_run_applies_a_fresh_jobset(world):
    result = jobset(world, "--slices=2", "--spot", "--queue=my-queue")
    assert result.returncode == 0, result.stderr
    assert [argv[3:5] for argv in world.calls()] == [["get", "jobset"], ["apply", "-f"]]
    assert all(argv[:3] == KUBECTL for argv in world.calls())
    (text,) = world.stdin()
    assert "@SLICES@" not in text
    manifest = yaml.safe_load(text)
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert manifest["metadata"]["name"] == "run-1"
    assert manifest["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "my-queue"}
    (job,) = manifest["spec"]["replicatedJobs"]
    assert job["replicas"] == 2
    assert job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"] == 8
    assert job["template"]["spec"]["template"]["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    spec = pod(manifest)
    assert spec["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "4x8",
        "cloud.google.com/gke-spot": "true",
    }
    assert spec["serviceAccountName"] == "trainer" and spec["restartPolicy"] == "Never"
    (container,) = spec["containers"]
    assert container["command"] == ["python", "-m", "ldis_jax.main"]
    assert [expand(argument) for argument in container["args"]] == MAIN
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["volumeMounts"][0] == {"name": "work", "mountPath": "/mnt/ldis"}
    assert spec["volumes"][0]["csi"]["volumeAttributes"]["bucketName"] == "my-bucket"
    assert spec["volumes"][1]["emptyDir"] == {"medium": "Memory"}


def test_gke_jobset_render_restarts_all_at_preemption_but_not_at_bad_input(world):
    manifest = yaml.safe_load(jobset(world, "--max_restarts=7", action="render").stdout)
    policy = manifest["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    assert policy["rules"] == [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}]
    job = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["backoffLimit"] == 0
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["values"] == [2]
    assert rule["onExitCodes"]["containerName"] == pod(manifest)["containers"][0]["name"]
    assert world.calls() == []


def test_gke_jobset_render_takes_a_claim_in_place_of_a_bucket(world):
    flags = [flag for flag in JOBSET if not flag.startswith("--bucket")]
    result = world.run("gke_jobset.sh", "render", *flags, "--claim=my claim", *TRAIN)
    spec = pod(yaml.safe_load(result.stdout))
    assert spec["volumes"][0] == {"name": "work", "persistentVolumeClaim": {"claimName": "my claim"}}


def test_gke_jobset_mount_may_end_in_a_slash(world):
    (container,) = pod(yaml.safe_load(jobset(world, "--mount=/mnt/ldis/", action="render").stdout))["containers"]
    assert container["volumeMounts"][0]["mountPath"] == "/mnt/ldis"


@pytest.mark.parametrize(
    ("state", "verbs", "word"),
    [
        ("run-1 ", ["get"], "waits or runs already"),
        ("run-1 StartupPolicyCompleted", ["get"], "waits or runs already"),
        ("run-1 Completed", ["get"], "completed"),
        ("run-1 StartupPolicyCompleted Failed", ["get", "delete", "apply"], "failed; making it again"),
    ],
)
def test_gke_jobset_run_makes_an_existing_jobset_again_only_if_it_failed(world, state, verbs, word):
    world.script({GET: [{"out": state}]})
    result = jobset(world)
    assert result.returncode == 0 and word in result.stderr
    assert [argv[3] for argv in world.calls()] == verbs
    assert all(argv == DELETE for argv in world.calls() if argv[3] == "delete")


@pytest.mark.parametrize(("failing", "count"), [("get jobset", 1), ("apply", 2)])
def test_gke_jobset_run_reports_a_failure_of_kubectl_with_its_status(world, failing, count):
    world.script({failing: [{"status": 9}]})
    result = jobset(world)
    assert result.returncode == 9 and "error: exit status 9 of: kubectl" in result.stderr
    assert len(world.calls()) == count


def test_gke_jobset_dry_run_calls_nothing_and_can_be_pasted(world):
    result = jobset(world, "--dry_run")
    assert result.returncode == 0 and world.calls() == []
    assert world.paste(result.stdout).returncode == 0
    assert [argv[3] for argv in world.calls()] == ["get", "apply"]
    (container,) = pod(yaml.safe_load(world.stdin()[0]))["containers"]
    assert [expand(argument) for argument in container["args"]] == MAIN


def test_gke_jobset_delete_deletes_the_jobset(world):
    assert world.run("gke_jobset.sh", "delete", "--name=run-1", "--context=gke_p_z_c").returncode == 0
    assert world.calls() == [DELETE]


XPK = ["--name=run-1", "--project=p", "--zone=z", "--cluster=c", "--tpu_type=v6e-16", "--image=i:tpu", "--storage=my-s"]
OTHERS = [("run-1-other", "Finished", "jobset failed"), ("run-2", "Admitted", "The workload is admitted")]


def xpk(world: World, *more: str) -> subprocess.CompletedProcess[str]:
    return world.run("gke_xpk.sh", "run", *XPK, *TRAIN, *more, "--", *OVERRIDES)


def test_gke_xpk_run_creates_a_fresh_workload(world):
    world.script({"workload list": [{"workloads": OTHERS}]})
    result = xpk(world, "--slices=2", "--create_flag=--priority=high")
    assert result.returncode == 0, result.stderr
    listing, create = world.calls()
    place = ["--cluster=c", "--project=p", "--zone=z"]
    assert listing == ["xpk", "workload", "list", *place, "--filter-by-job=run-1", "--filter-by-status=EVERYTHING"]
    assert create[:-1] == [
        *["xpk", "workload", "create", *place, "--workload=run-1", "--tpu-type=v6e-16", "--num-slices=2"],
        *["--docker-image=i:tpu", "--max-restarts=100", "--restart-on-exit-codes=1", "--priority=high"],
        "--storage=my-s",
    ]
    world.forget()
    command = expand(create[-1].removeprefix("--command=")).replace("exec python ", "exec python3 ")
    assert world.paste(f"({command})").returncode == 0  # as xpk's container does
    assert world.calls() == [["python3", "-m", "ldis_jax.main", *MAIN]]


@pytest.mark.parametrize(
    ("status", "message", "verbs", "word"),
    [
        ("Finished", "jobset failed due to reaching max number of restarts", ["delete", "create"], "failed"),
        ("Finished", "jobset completed successfully", [], "succeeded"),
        ("Finished", "Job finished successfully", [], "succeeded"),  # as older Kueue says
        ("Admitted", "The workload is admitted", [], "waits or runs already"),
        ("Evicted", "Preempted: 1 Pod failed", [], "waits or runs already"),
    ],
)
def test_gke_xpk_run_makes_an_existing_workload_again_only_if_it_failed(world, status, message, verbs, word):
    world.script({"workload list": [{"workloads": [*OTHERS, ("run-1", status, message)]}]})
    result = xpk(world)
    assert result.returncode == 0 and word in result.stderr
    assert [argv[2] for argv in world.calls() if argv[2] != "list"] == verbs


def test_gke_xpk_run_reports_a_failure_of_xpk_with_its_status(world):
    world.script({"workload list": [{"status": 4}]})
    result = xpk(world)
    assert result.returncode == 4 and "error: exit status 4 of: xpk" in result.stderr
    assert len(world.calls()) == 1


def test_gke_xpk_dry_run_calls_nothing_and_can_be_pasted(world):
    result = xpk(world, "--dry_run")
    assert result.returncode == 0 and world.calls() == []
    assert world.paste(result.stdout).returncode == 0
    assert [argv[2] for argv in world.calls()] == ["list", "create"]
