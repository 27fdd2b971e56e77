"""The command, with the real TPU compiler where it is installed."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import pytest

from ldis_jax import LDISError
from ldis_jax.config import base_config
from ldis_jax.costs.report import advice
from ldis_jax.runtime import sharding
from ldis_jax.runtime.chips import compiler_options, get_chip, peak_flops, slice_devices
from tests.forked import command
from tests.helpers import ROOT, micro_config, run_of

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="the TPU compiler is not installed"
)

# Bytes a chip of tests/costs/micro.py on v5e:2x2, fsdp 4. A change that raises one by over 5 % needs a reason.
PEAK = {"train": 66_200_000, "predict": 6_950_000}


ENVIRONMENT = os.environ | {"XLA_FLAGS": ""}  # the TPU's compiler ends on flags that it does not know


def run(
    *arguments, code="import ldis_jax.compile as c; from ldis_jax.support import cli; cli.run(c.main)", **variables
):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT | variables, capture_output=True, text=True, check=False)


@needs_libtpu
@pytest.mark.timeout(900)
def test_compile_reports_both_programs_on_a_slice(micro_folder, tmp_path):
    out = tmp_path / "costs.json"
    flags = ["--config=tests/costs/micro.py", f"--config.init.folder={micro_folder}", "--topology=v5e:2x2"]
    done = run(*flags, "--config.mesh.fsdp=4", f"--json={out}", f"--config.executable={tmp_path / 'step'}")
    assert done.returncode == 0, done.stderr
    head, _, program = (tmp_path / "step").read_bytes().partition(b"\n")
    facts = json.loads(head)["facts"]
    assert (
        facts["devices"].startswith("TPU v5 lite: ") and facts["libtpu"][0].isdigit() and facts["dtype"] == "bfloat16"
    )
    assert len(program) > 100_000
    costs = json.loads(out.read_text())
    train, predict = costs["train"], costs["predict"]
    assert done.stdout.count("fits: ") == 2 and "train, batch 8, v5e:2x2 (fsdp 4)" in done.stdout
    for cost in (train, predict):
        assert cost["fits"] and 0 < cost["argument_bytes"] < cost["peak_bytes"] < cost["chip_bytes"] == 16 * 10**9
        parts = cost["predicted_compute_ms_by_part"]
        assert "unet/resnet" in parts and "vae_encoder/resnet" in parts and "prompt_encoder" in parts
        assert ("unet backward/resnet" in parts) == ("optimizer" in parts) == (cost["program"] == "train")
        assert sum(parts.values()) == pytest.approx(cost["predicted_compute_ms"], abs=1e-3 * len(parts))
        assert cost["predicted_compute_ms"] > 0 and cost["bytes_accessed"] > 0
        assert cost["predicted_ms"] == pytest.approx(cost["predicted_compute_ms"] + cost["predicted_unhidden_ms"])
        assert 0 <= cost["predicted_unhidden_ms"] <= cost["predicted_exchange_ms"]
        assert cost["config"] == "tests/costs/micro.py" and cost["chips"] == 4 and cost["unmodelled_custom_calls"] == 0
        assert 0 < cost["predicted_mfu"] < 1
        assert cost["peak_bytes"] <= 1.05 * PEAK[cost["program"]], "memory has grown"
    # Forward, and twice that backward through the UNet alone, are more than a prediction's forward.
    assert train["flops"] > predict["flops"] > 0
    assert train["predicted_exchange_ms"] > predict["predicted_exchange_ms"]
    # Gradients of all that is trained are exchanged once: of what is shared out in bfloat16, of the rest in float32.
    whole = {"all-gather": 0.0, "reduce-scatter": 0.0, "all-reduce": 0.0}
    for found in train["collectives"]:
        assert found["group"] == 4 and not found["network"]
        whole[found["kind"]] += found["bytes"] * 4 / 3 / (2 if found["kind"] == "all-reduce" else 1)
    mesh = sharding.make_mesh(1, 4, devices=jax.devices()[:4])
    size = sum(
        value.size * (4 if sharding.param_sharding(name, value.shape, mesh).is_fully_replicated else 2)
        for name, value in run_of(micro_config(micro_folder)).shapes[1].items()
    )
    assert whole["reduce-scatter"] + whole["all-reduce"] == pytest.approx(size, rel=0.03)
    assert whole["all-gather"] > size / 2  # of what is sharded


def test_compile_of_what_does_not_fit_is_status_1_with_what_to_change(tmp_path):
    code = """
import ldis_jax.runtime.chips as chips, ldis_jax.costs.report as report, ldis_jax.runtime.sharding as sharding, jax
real = sharding.make_mesh
chips.slice_devices = lambda topology, slices: None
sharding.make_mesh = lambda **kw: real(1, 1, devices=jax.devices()[:1])
report.compile_program = lambda run, program, topology, batch_size: (None, {
    "program": program, "topology": topology, "mesh": {"slice": 1, "data": 4, "fsdp": 1}, "batch_size": batch_size,
    "predicted_ms": 1.0, "predicted_compute_ms_by_part": {},
    "argument_bytes": 15e9, "temp_bytes": 9e9, "peak_bytes": 24e9, "chip_bytes": 16e9, "fits": False, "flops": 1e12,
    "bytes_accessed": 1e9, "collectives": [], "predicted_compute_ms": 1.0, "predicted_exchange_ms": 0.0,
    "predicted_unhidden_ms": 0.0, "unmodelled_custom_calls": 0, "predicted_mfu": 0.5, "replicated": ["unet/a (9, 9)"]})
import ldis_jax.compile as c; from ldis_jax.support import cli; cli.run(c.main)"""
    done = run("--config=configs/ldis1.py", "--program=train", code=code)
    assert done.returncode == 1, done.stderr
    assert "does not fit: 24.00 of 16 GB" in done.stdout and "try --config.mesh.fsdp=4, " in done.stdout
    assert "large parameters stay whole on every chip: unet/a (9, 9)" in done.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "missing; for example --config=configs/tiny.py"),
        (("--config=configs/tiny.py", "--topology=h100:8"), "--topology=h100:8: must be v5e, v5p, v6e"),
        (("--config=configs/tiny.py", "--config.executable=tests"), "tests: cannot be written (is a folder)"),
        (("--config=configs/tiny.py", "--program=eval"), "program"),
    ],
)
def test_compile_rejects_bad_command_lines(flags, message):
    done = command("ldis_jax.compile", *flags, env=ENVIRONMENT)
    assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1
    assert not done.stdout


@needs_libtpu
def test_compile_of_what_the_compiler_refuses_is_status_1_with_what_it_needs(micro_folder, tmp_path):
    out, step = tmp_path / "costs.json", tmp_path / "step"
    flags = ["--config=tests/costs/micro.py", f"--config.init.folder={micro_folder}", "--topology=v5e:1x1"]
    flags += ["--config.task.image_size=64", f"--batch_size={2**16}", f"--config.executable={step}"]
    done = run(*flags, "--program=predict", f"--json={out}")
    assert done.returncode == 1
    assert done.stderr == "compiling predict for v5e:1x1, which takes minutes at full size\n"
    assert "of 16 GB a chip; the compiler refuses it" in done.stdout and "try lower --batch_size" in done.stdout
    cost = json.loads(out.read_text())["predict"]
    assert not cost["fits"] and cost["peak_bytes"] > 16e9 and cost["flops"] > 1e12 and cost["compile_seconds"] > 0
    assert cost["predicted_ms"] is None and cost["temp_bytes"] is None and not step.exists()


def test_advice_is_about_the_program():
    config = base_config("ldis1")
    cost = {"program": "train", "mesh": {"slice": 2, "data": 2, "fsdp": 4}}
    assert advice(config, cost).startswith("--config.mesh.fsdp=8, --config.optim.moment_dtype=bfloat16, ")
    assert advice(config, cost | {"program": "predict"}) == "lower --batch_size"


def test_run_shapes_without_an_init_folder_are_sd_15s():
    config = base_config("ldis1")
    config.init.folder = "not/there"
    sizes = [value.size for value in run_of(config).shapes[1].values()]
    assert sum(sizes) == 859_520_964 + 787_200
    with pytest.raises(LDISError, match="v5e"):
        get_chip("v3:8")
    for topology in ("v5e:0x4", "v5e:", "v5e:4x"):
        with pytest.raises(LDISError, match="with a grid of chips, as in v5e:4x4"):
            slice_devices(topology)


@pytest.mark.parametrize(
    ("kind", "tflops"),
    [
        *(("TPU v5 lite", 197), ("TPU v5e", 197), ("TPU v5", 459), ("TPU v5p", 459)),
        *(("TPU v6 lite", 918), ("TPU v6e", 918), ("NVIDIA H100 80GB HBM3", 989), ("cpu", None)),
    ],
)
def test_peak_flops_knows_devices_that_run(kind, tflops):
    assert peak_flops(kind) == (tflops and tflops * 1e12)


def test_compiler_options_are_those_of_the_chip():
    assert compiler_options("TPU v5 lite") == compiler_options("TPU v5e") != {}
    assert compiler_options("TPU v5") == compiler_options("TPU v6 lite") == compiler_options("cpu") == {}


@needs_libtpu
def test_compile_with_text_reads_a_program_that_xla_cannot_read_back():
    code = """
from ldis_jax.runtime.chips import prepare_compile_only, slice_devices
prepare_compile_only()
import jax
from ldis_jax.costs.hlo import estimated_cycles
from ldis_jax.costs.report import compile_with_text
where = jax.sharding.SingleDeviceSharding(slice_devices("v6e:1x1")[0])
x = jax.ShapeDtypeStruct((512, 512), "bfloat16", sharding=where)
lowered = jax.jit(lambda a, b: jax.numpy.tanh(a @ b) @ b).lower(x, x)
read = estimated_cycles(compile_with_text(lowered)[1])
def fail(self):
    raise jax.errors.JaxRuntimeError("INTERNAL: Async done requires its operand to be an asynchronous op")
jax.stages.Compiled.as_text = fail
compiled, text = compile_with_text(lowered)
assert read == estimated_cycles(text) and sum(read.values()) > 1000 and compiled.memory_analysis()
"""
    done = run(code=code)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


@needs_libtpu
def test_process_rows_on_real_slices_are_the_batch_once():
    """An axis may be part of one of the grid's; the samples of all hosts together are the batch, each once."""
    code = """
from ldis_jax.runtime.chips import prepare_compile_only, slice_devices
prepare_compile_only()
from ldis_jax.runtime import sharding
ordered = set()
for topology, slices, fsdp in (("v5e:4x4", 1, 4), ("v5e:4x4", 2, 8), ("v6e:4x4", 1, 8), ("v5p:4x4x4", 1, 8)):
    devices = slice_devices(topology, slices)
    mesh = sharding.make_mesh(fsdp=fsdp, slices=slices, devices=devices)
    size, hosts = 4 * len(devices), sorted({device.process_index for device in devices})
    rows = [sharding.process_rows(mesh, size, host) for host in hosts]
    assert {len(of_host) for of_host in rows} == {size // len(hosts)} and len(hosts) > 1
    assert sorted(sum(rows, [])) == list(range(size))
    ordered.add(sum(rows, []) == list(range(size)))
assert ordered == {True, False}, "hosts follow one another in some meshes, not in all"
for topology in ("v5e:2x4", "v6e:2x4"):
    assert {device.process_index for device in slice_devices(topology)} == {0}, "v5litepod-8 and v6e-8 are one host"
"""
    done = run(code=code)
    assert done.returncode == 0, done.stderr


@needs_libtpu
@pytest.mark.parametrize("slices", [2, 4])
def test_collectives_finds_the_exchange_between_slices(slices):
    code = """
import sys
from ldis_jax.runtime.chips import prepare_compile_only, slice_devices
prepare_compile_only()
import jax
from jax.sharding import PartitionSpec as P
from ldis_jax.runtime import sharding
from ldis_jax.costs.exchanges import Collective, collectives
from ldis_jax.costs.report import compile_with_text
n = int(sys.argv[1])
mesh = sharding.make_mesh(fsdp=4, slices=n, devices=slice_devices("v5e:2x2", n))
both = (sharding.SLICE, sharding.FSDP)
def exchange(x):
    across = sharding.SLICE
    scattered = jax.lax.psum_scatter(x, across, tiled=True)
    return jax.lax.psum(x, across), jax.lax.all_gather(x, across, tiled=True), scattered, jax.lax.psum(x, both)
f = jax.shard_map(exchange, mesh=mesh, in_specs=P(both), out_specs=(P(both),) * 4, check_vma=False)
where = jax.sharding.NamedSharding(mesh, P(both))
x = jax.ShapeDtypeStruct((n * 4 * 2048, 4096), "bfloat16", sharding=where)
found = [c for c in collectives(compile_with_text(jax.jit(f).lower(x))[1], 1.0) if c.network]
size = 2048 * 4096 * 2  # of a chip's part; the last sum goes between slices as each chip's quarter of it
assert sorted(found, key=lambda c: c.kind) == [
    Collective("all-gather", n, True, 1, size * (n - 1), 0),
    Collective("all-reduce", n, True, 2, 2 * (size + size // 4) * (n - 1) // n, 0),
    Collective("reduce-scatter", n, True, 1, size * (n - 1) // n, 0),
], found
"""
    done = run(slices, code=code)
    assert done.returncode == 0, done.stderr
