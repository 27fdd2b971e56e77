"""Exported programs: they give what the pipeline gives, without it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from safetensors.flax import load_file

from ldis_jax import LDISError, LDISPipeline
from ldis_jax import export as command
from ldis_jax.inference import stablehlo
from ldis_jax.input_pipeline.transforms import eval_image, eval_mask, restore_size
from ldis_jax.media.images import read_image
from ldis_jax.media.masks import read_mask
from ldis_jax.models import convolution
from ldis_jax.tasks.pseudo_mask import to_logit
from tests.helpers import ROOT, SIZE, call_command

pytest.importorskip("flatbuffers")


K = 2


# Of the file of LDIS-n.
OPTIONS = {"num_steps": 2, "prompt_guidance_scale": 3.0}


@pytest.fixture(scope="module", autouse=True)
def many_channels():
    """CPUs multiply patches in networks of this size too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolution, "_MANY_CHANNELS", 16)
        yield


@pytest.fixture(scope="module")
def exported_ldis1(micro_folder, tmp_path_factory):
    """(pipeline, its file, what else a prediction takes)."""
    pipe = LDISPipeline.from_pretrained(micro_folder)
    path = tmp_path_factory.mktemp("export") / "ldis.safetensors"
    pipe.export(path, num_prompts=K)
    return pipe, path, {}


@pytest.fixture(scope="module")
def exported_ldisn(micro_folder_ldisn, tmp_path_factory):
    """The same of LDIS-n with options, by the command."""
    path = tmp_path_factory.mktemp("export") / "deep" / "ldis.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        flags = {"model": micro_folder_ldisn, "out": path, "num_prompts": K, **OPTIONS}
        patch.setattr(sys, "argv", ["export", *(f"--{name}={value}" for name, value in flags.items())])
        command.main()
    return LDISPipeline.from_pretrained(micro_folder_ldisn), path, OPTIONS


def load(path):
    """(function of named inputs, program) of a file, with JAX's own means."""
    weights = load_file(path)
    program = jax.export.deserialize(bytearray(weights.pop("program")))
    call = jax.jit(program.call)
    return lambda inputs: np.asarray(call(weights, inputs)), program


def make_inputs(batch, **more):
    rng = np.random.default_rng(batch)
    return {
        "query": rng.uniform(-1, 1, (batch, SIZE, SIZE, 3)).astype(np.float32),
        "prompt_images": rng.uniform(-1, 1, (batch, K, SIZE, SIZE, 3)).astype(np.float32),
        "prompt_masks": rng.integers(0, 2, (batch, K, SIZE, SIZE)).astype(np.uint8),
        "num_prompts": (np.arange(batch) % K + 1).astype(np.int32),
        **more,
    }


@pytest.mark.parametrize(("task", "batches"), [("ldis1", (1, 3)), ("ldisn", (3,))])  # the page below is LDIS-n's 1
def test_export_serves_every_batch_from_one_file(task, batches, request):
    pipe, path, options = request.getfixturevalue(f"exported_{task}")
    call, program = load(path)
    assert program.platforms == ("cpu", "tpu", "cuda")
    for batch in batches:
        inputs = make_inputs(batch) | ({"seed": np.int32(5)} if task == "ldisn" else {})
        expected = np.asarray(pipe.predict(**inputs, **options))
        assert np.abs(expected).max() > 0.5
        # One image is the same program. Of several, a CPU's pipeline takes one at a time.
        np.testing.assert_allclose(call(inputs), expected, rtol=0, atol=0 if batch == 1 else 2e-5)


def test_export_runs_as_documented_without_this_package(exported_ldisn, pictures):
    pipe, path, options = exported_ldisn
    query = read_image(pictures["query"])
    images = np.stack([eval_image(read_image(pictures["prompt"]), SIZE)] * K)[None]
    masks = np.stack([eval_mask(read_mask(pictures["mask"]), SIZE)] * K)[None]
    r = pipe.predict(eval_image(query, SIZE)[None], images, masks, **options)  # compiled above
    logit = to_logit(restore_size(np.asarray(r)[0], *query.shape[:2]))
    assert 0.05 < (logit > 0).mean() < 0.95
    folder = pictures["query"].parent
    (folder / path.name).symlink_to(path)
    pictures["mask"].rename(folder / "prompt_mask.png")

    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    page = re.search(r"<!-- runs without ldis_jax -->\n```python\n(.*?)```", text, re.DOTALL)[1]
    code = (
        "import sys; sys.modules['ldis_jax'] = None\n"  # any import of it fails
        + page.replace("]  # at most K", "] * K  # at most K")
        + "\nnp.save('probability.npy', probability)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "mask.png")), logit > 0)
    np.testing.assert_allclose(np.load(folder / "probability.npy"), 1 / (1 + np.exp(-logit)), atol=1e-6)


def test_export_keeps_each_platforms_own_convolution(exported_ldis1, tmp_path):
    counts = []
    for platform in ("cpu", "tpu"):
        exported_ldis1[0].export(tmp_path / f"{platform}.safetensors", num_prompts=K, platforms=[platform])
        call, program = load(tmp_path / f"{platform}.safetensors")
        counts.append(program.mlir_module().count("stablehlo.convolution"))
    assert counts[0] < counts[1]  # the CPU's are products of patches
    with pytest.raises(ValueError, match="platform"):
        call(make_inputs(1))


def test_export_takes_bfloat16_and_a_batch_of_its_own(micro_folder, tmp_path):
    path = tmp_path / "half.safetensors"
    with jax.numpy_dtype_promotion("standard"):  # Flax's norms mix their float32 statistics with bfloat16
        LDISPipeline.from_pretrained(micro_folder, dtype="bfloat16").export(path, num_prompts=K, batch_size=2)
    call, program = load(path)
    (weights, inputs), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    assert {str(x.dtype) for x in weights.values()} == {"bfloat16"}
    assert inputs["query"].shape == (2, SIZE, SIZE, 3) and program.out_avals[0].dtype == np.float32
    with pytest.raises(ValueError, match="shape"):
        call(make_inputs(3))


def export_command(monkeypatch, capsys, **arguments):
    """(exit status, stdout, stderr) of ``python -m ldis_jax.export``."""
    return call_command(command.main, monkeypatch, capsys, *(f"--{k}={v}" for k, v in arguments.items()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "nowhere"}, "nowhere"),
        (
            {"platforms": "cpu,gpu"},
            "platforms='cpu,gpu': numbers must be positive, and platforms must be of cpu, tpu, cuda, rocm",
        ),
        ({"platforms": ""}, "platforms=''"),
        ({"out": "file/ldis.safetensors"}, "file/ldis.safetensors: cannot be written"),
        ({"num_prompts": 0}, "num_prompts=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"num_steps": 4}, "unknown option num_steps of ldis1"),
    ],
)
def test_export_exits_with_2_and_one_line_after_bad_input(micro_folder, tmp_path, monkeypatch, capsys, change, message):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("in the way")
    arguments = {"model": micro_folder, "out": "ldis.safetensors"} | change
    status, _, err = export_command(monkeypatch, capsys, **arguments)
    assert status == 2 and message in err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert os.listdir() == ["file"]


def test_export_names_a_missing_package(exported_ldis1, tmp_path, monkeypatch):
    monkeypatch.setattr(stablehlo.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LDISError, match="flatbuffers"):
        exported_ldis1[0].export(tmp_path / "ldis.safetensors")
