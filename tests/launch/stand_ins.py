"""Stand-ins for gcloud, kubectl and the like: they record how they were called and answer what a test has scripted."""

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.helpers import ROOT

LAUNCH = ROOT / "launch"
PROGRAMS = ("gcloud", "kubectl", "xpk", "sbatch", "squeue", "scancel", "srun", "scontrol", "docker", "python3")

# One program under many names. The first scripted key that is part of its command line decides: its answers are given
# one after another, the last one for ever.
_PROGRAM = r"""
import fcntl, os, sys  # and no more: a test starts dozens of these

world = os.environ["WORLD"]
name, argv = os.path.basename(sys.argv[0]), sys.argv[1:]
line = " ".join([name, *argv])

def record(argv, stdin=None):
    with open(world + "/calls", "a") as calls:
        calls.write(repr((argv, stdin)) + "\n")

def copy(source, target):
    with open(source, "rb") as old, open(target, "wb") as new:
        new.write(old.read())
    os.chmod(target, 0o755)

with open(world + "/lock", "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    record([name, *argv], sys.stdin.read() if argv[-2:] == ["-f", "-"] else None)
    with open(world + "/script") as file:
        script = eval(file.read())
    answers = next((answers for key, answers in script.items() if key in line), [{}])
    answer = answers[0]
    if len(answers) > 1:
        del answers[0]
        with open(world + "/script", "w") as file:
            file.write(repr(script))

if name == "python" and "ldis_jax.main" in argv:
    with open(os.environ["HOME"] + "/trainer", "w") as file:
        file.write(str(os.getpgrp()))  # as tpu_host.sh writes it down

def homes(node):
    for worker in range(int(os.environ["WORKERS"])):
        home = f"{world}/hosts/{node}/{worker}"
        os.makedirs(home, exist_ok=True)
        yield home

def ssh(home, command):
    child = os.fork()
    if not child:
        os.chdir(home)
        os.execvpe("bash", ["bash", "-c", command], os.environ | {"HOME": home})
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if "tpu_host.sh start" in command:
        wait_for_trainer(home, command.split("/")[1])
    return status

def read(path):
    if not os.path.exists(path):
        return ""
    with open(path) as file:
        return file.read().strip()

# What goes on in the background is called before the cloud does anything else: a slice is not lost before it trains.
def wait_for_trainer(home, run):
    import time
    deadline = time.time() + 20
    while read(home + "/trainer") != read(f"{home}/ldis/{run}/pid") and time.time() < deadline:
        time.sleep(0.01)

if name == "gcloud" and not answer:
    if "create" in argv:
        os.spawnvp(os.P_WAIT, "rm", ["rm", "-rf", world + "/hosts"])  # other machines than before
    elif argv[2:4] == ["tpu-vm", "scp"]:
        node, _, target = argv[5].partition(":")
        for home in homes(node):
            copy(argv[4], home + "/" + target)
    elif argv[2:4] == ["tpu-vm", "ssh"]:
        sys.exit(max([ssh(home, argv[-1].removeprefix("--command=")) for home in homes(argv[4])]))
if "workloads" in answer:  # (name, status, message) of each, filtered as xpk 1.8 does
    flags = dict(word.split("=", 1) for word in argv if "=" in word)
    def matches(workload, status, message):
        word = {"FAILED": "failed", "SUCCESSFUL": "finished"}.get(wanted := flags.get("--filter-by-status"), "")
        finished = status == "Finished" and word in message.lower()
        return flags["--filter-by-job"] in workload and (wanted in (None, "EVERYTHING") or finished)
    print("[XPK] Starting")
    for row in [("Jobset Name", "Status", "Status Message"), *filter(lambda row: matches(*row), answer["workloads"])]:
        print("   ".join(row))
if name == "python3" and argv[:3] == ["-m", "uv", "venv"]:
    os.makedirs(argv[-1] + "/bin")
    copy(sys.argv[0], argv[-1] + "/bin/python")
if name == "scancel" and "--signal=TERM" in argv:
    import signal
    with open(world + "/works") as file:
        os.kill(int(file.read()), signal.SIGUSR2)  # to what srun runs
if "term" in answer:  # works until SIGTERM, and then ends with this status
    import signal, time
    def stop(*_):
        record([name, "SIGTERM"])
        sys.exit(answer["term"])
    def kill(*_):  # as srun does
        record([name, "kills its tasks"])
        sys.exit(143)
    signal.signal(signal.SIGUSR2, stop)
    signal.signal(signal.SIGTERM, kill if name == "srun" else stop)
    with open(world + "/works.new", "w") as file:
        file.write(str(os.getpid()))
    os.rename(world + "/works.new", world + "/works")
    time.sleep(15)
sys.stdout.write(answer.get("out", ""))
sys.stderr.write(answer.get("err", ""))
sys.exit(answer.get("status", 0))
"""


class World:
    """A folder with stand-ins, a repository that holds launch/, and what was called."""

    def __init__(self, folder: Path, repository: Path):
        self.folder, self.repository = folder, repository
        self._bin = folder / "bin"
        self._bin.mkdir()
        for program in PROGRAMS:
            path = self._bin / program
            path.write_text(f"#!{sys.executable} -IS\n{_PROGRAM}")
            path.chmod(0o755)
        (folder / "calls").touch()
        self.script({})

    def script(self, answers: dict[str, list[dict[str, Any]]]) -> None:
        """What a command line with the key in it is answered: out, err, status, workloads; term: work until SIGTERM."""
        (self.folder / "script").write_text(repr(answers))

    def environment(self, **more: str) -> dict[str, str]:
        """Nothing of ours but the stand-ins: what a script calls by mistake is a stand-in, too."""
        path = f"{self._bin}:/usr/bin:/bin"
        return {"PATH": path, "HOME": str(self.folder), "WORLD": str(self.folder), "WORKERS": "1"} | more

    def run(self, script: str, *arguments: str, workers: int = 1) -> subprocess.CompletedProcess[str]:
        """A script of launch/ in the repository."""
        return self._run([str(self.repository / "launch" / script), *arguments], WORKERS=str(workers))

    def paste(self, text: str) -> subprocess.CompletedProcess[str]:
        """What a dry run has printed, into a shell."""
        return self._run(["-c", text])

    def _run(self, arguments: list[str], **more: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment(**more)
        return subprocess.run(
            ["bash", *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    def calls(self) -> list[list[str]]:
        """Every command line so far, in order."""
        return [argv for argv, _ in self._calls()]

    def stdin(self) -> list[str]:
        """What was handed to a command on standard input."""
        return [stdin for _, stdin in self._calls() if stdin is not None]

    def wait_for_work(self) -> None:
        """Until a stand-in that works until SIGTERM is ready for it."""
        deadline = time.time() + 20
        while not (self.folder / "works").exists() and time.time() < deadline:
            time.sleep(0.02)

    def forget(self) -> None:
        """Forgets the calls."""
        (self.folder / "calls").write_text("")

    def _calls(self) -> list[tuple[list[str], str | None]]:
        return [ast.literal_eval(line) for line in (self.folder / "calls").read_text().splitlines()]


def make_repository(folder: Path) -> Path:
    """A git repository with launch/ in it, to be uploaded."""
    shutil.copytree(LAUNCH, folder / "launch")
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run([*git, *command], check=True, env=environment)
    return folder
