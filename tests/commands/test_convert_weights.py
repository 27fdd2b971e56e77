"""``python -m ldis_jax.convert`` as a user calls it: from every source, to every target, and its refusals."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from safetensors.torch import load_file, save_file  # noqa: E402

from ldis_jax import LDISPipeline, convert  # noqa: E402
from ldis_jax.models.ldis import ModelConfig  # noqa: E402
from ldis_jax.tasks import LDIS1, LDISN  # noqa: E402
from ldis_jax.weights import load_model, save_model  # noqa: E402
from ldis_jax.weights.card import read_provenance  # noqa: E402
from ldis_jax.weights.model_folder import NETWORKS  # noqa: E402
from tests.helpers import CLIP_TOWER, MICRO, ROOT, call_command  # noqa: E402
from tests.reference import foreign  # noqa: E402
from tests.reference.weights import arrays, random_model  # noqa: E402
from tests.weights.test_torch_files import Evil  # noqa: E402

CONFIGS = {
    name: ModelConfig(type(config.unet)(**{**vars(config.unet), "encoder_hid_dim": 64}), config.vae, CLIP_TOWER)
    for name, config in MICRO.items()
}
TASKS = {"ldis1": LDIS1(), "ldisn": LDISN()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What a user has: SD 1.5 in small, CLIP, Alpha-CLIP, the paper's weights."""
    root = tmp_path_factory.mktemp("owned")
    model = random_model(CONFIGS["ldis1"])
    save_model(root / "sd15", TASKS["ldis1"], model, "---\nlicense: creativeml-openrail-m\n---\n")
    (root / "sd15" / "ldis_config.json").unlink()
    shutil.rmtree(root / "sd15" / "prompt_encoder")
    unet = {n: a for n, a in arrays(model.unet).items() if not n.startswith("encoder_hid_proj")}
    foreign.write_network(root / "sd15" / "unet", unet, "safetensors")
    config = json.loads((root / "sd15" / "unet" / "config.json").read_text())
    del config["encoder_hid_dim"], config["encoder_hid_dim_type"]
    (root / "sd15" / "unet" / "config.json").write_text(json.dumps(config))
    tower = arrays(model.prompt_encoder)
    torch.save(foreign.tensors(tower), root / "alpha.pth")
    foreign.write_torchscript(root / "ViT.pt", foreign.openai_names(tower))
    save_file(foreign.tensors(foreign.original_names(unet, arrays(model.vae), 1, 3)), root / "v1-5.safetensors")
    for name, config in CONFIGS.items():
        foreign.write_deepspeed(root / f"{name}.pt", arrays(random_model(config).unet))
    return root


@pytest.fixture
def convert_to(made, tmp_path, monkeypatch, capsys):
    """Runs the command in a folder with what a user has; gives (status, standard output, standard error)."""
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)

    return functools.partial(call_command, convert.main, monkeypatch, capsys)


CLIP = ("--alpha_clip=alpha.pth", "--clip=ViT.pt")


def parameters(folder):
    model = load_model(folder).model
    return {f"{name}.{key}": a for name in NETWORKS for key, a in arrays(getattr(model, name)).items()}


@pytest.mark.parametrize("task", ["ldis1", "ldisn"])
def test_convert_makes_a_model_folder_of_stable_diffusion(convert_to, made, task):
    status, out, err = convert_to("--sd15=sd15", *CLIP, f"--task={task}", "--out=model")
    assert status == 0, err
    assert f"--config=configs/{task}.py --config.init.folder=model" in out
    loaded = load_model("model")
    assert loaded.task == TASKS[task]
    assert loaded.model.config == CONFIGS[task]
    truth = arrays(random_model(CONFIGS["ldis1"]).unet)
    found = arrays(loaded.model.unet)
    for name in truth.keys() - {"encoder_hid_proj.weight", "encoder_hid_proj.bias", "conv_in.weight"}:
        np.testing.assert_array_equal(found[name], truth[name])
    conv_in = found["conv_in.weight"]
    np.testing.assert_array_equal(conv_in[:, :4], truth["conv_in.weight"])
    assert not conv_in[:, 4:].any()
    assert found["encoder_hid_proj.weight"].any()
    card = Path("model/README.md").read_text()
    assert "license: creativeml-openrail-m" in card and "Not trained for segmentation yet" in card
    assert "sd15, alpha.pth, ViT.pt" in card and str(made) not in card
    assert read_provenance(card).statement.startswith("nothing yet")


@pytest.mark.parametrize("source", ["sd15", "v1-5.safetensors"])
@pytest.mark.parametrize("task", ["ldis1", "ldisn"])
def test_convert_takes_the_papers_weights_there_and_back(convert_to, source, task):
    extra = [] if source == "sd15" else ["--sd15_config=sd15"]
    status, out, err = convert_to(f"--sd15={source}", *extra, *CLIP, f"--ldis={task}.pt", "--out=model")
    assert status == 0, err
    assert f"model: {task} model folder with the paper's weights" in out
    assert load_model("model").task == TASKS[task]
    found = parameters("model")
    for name, array in arrays(random_model(CONFIGS[task]).unet).items():
        np.testing.assert_array_equal(found[f"unet.{name}"], array)
    card = Path("model/README.md").read_text()
    assert "not recorded" in card and not read_provenance(card).statement
    # and back, exactly
    status, _, err = convert_to("--model=model", "--to=ldis_pt", "--out=deep/pytorch_model/back.pt")
    assert status == 0, err
    back = torch.load("deep/pytorch_model/back.pt", weights_only=True)["module"]
    first = torch.load(f"{task}.pt", weights_only=True)["module"]
    assert back.keys() == first.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in first.items())


def test_convert_makes_a_model_that_segments(convert_to, pictures):
    assert convert_to("--sd15=sd15", *CLIP, "--ldis=ldis1.pt", "--out=model")[0] == 0
    path = Path("model/ldis_config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"image_size": 16}))
    result = LDISPipeline.from_pretrained("model")(pictures["query"], [(pictures["prompt"], pictures["mask"])])
    assert result.mask.shape == (24, 50)


def test_convert_is_exact_from_folder_to_folder(convert_to):
    assert convert_to("--sd15=sd15", *CLIP, "--ldis=ldisn.pt", "--out=a")[0] == 0
    assert convert_to("--model=a", "--out=b")[0] == 0
    files = sorted(path.relative_to("a") for path in Path("a").rglob("*") if path.is_file())
    assert files == sorted(path.relative_to("b") for path in Path("b").rglob("*") if path.is_file())
    for file in files:
        assert (Path("a") / file).read_bytes() == (Path("b") / file).read_bytes(), file


def test_convert_to_bfloat16_halves_the_files(convert_to):
    assert convert_to("--sd15=sd15", *CLIP, "--ldis=ldis1.pt", "--out=a")[0] == 0
    assert convert_to("--model=a", "--dtype=bfloat16", "--out=b")[0] == 0
    a, b = (sum(path.stat().st_size for path in Path(x).rglob("*.safetensors")) for x in "ab")
    assert 0.45 < b / a < 0.75  # small tensors, so names weigh
    found = parameters("b")
    for name, array in parameters("a").items():
        truth = torch.from_numpy(np.array(array)).to(torch.bfloat16).float().numpy()
        np.testing.assert_array_equal(found[name], truth)


def test_convert_takes_clip_without_alpha(convert_to):
    assert convert_to("--sd15=sd15", "--clip=ViT.pt", "--task=ldis1", "--out=plain")[0] == 0
    assert not load_model("plain").model.config.prompt_encoder.alpha
    assert load_model("plain").task.masking == "post"  # all that it can do
    assert convert_to("--sd15=sd15", "--clip=ViT.pt", "--zero_alpha", "--task=ldis1", "--out=zero")[0] == 0
    assert not arrays(load_model("zero").model.prompt_encoder)["conv1_alpha.weight"].any()
    assert load_model("zero").task.masking == "both"


@pytest.mark.parametrize("origins", [[], ["--sd15=sd15", "--model=sd15"]])
def test_convert_requires_exactly_one_origin(convert_to, tmp_path, origins):
    before = sorted(tmp_path.rglob("*"))
    status, _, err = convert_to(*origins, "--out=x")
    assert status == 2 and "--sd15" in err.splitlines()[-1] and "--model" in err.splitlines()[-1], err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sd15=sd15", "--clip=ViT.pt", "--out=x"], "--sd15: needs --task or --ldis"),
        (["--sd15=sd15", "--task=ldis1", "--out=x"], "--sd15: needs --alpha_clip or --clip"),
        (["--sd15=nowhere", *CLIP, "--task=ldis1", "--out=x"], "'nowhere': no such folder (a run writes its model/ at"),
        (["--sd15=sd15", "--alpha_clip=none.pth", "--task=ldis1", "--out=x"], "none.pth: no such file, and no address"),
        (["--sd15=sd15", *CLIP, "--ldis=ldis1.pt", "--task=ldisn", "--out=x"], "no ldisn checkpoint, which has"),
        (["--sd15=sd15", *CLIP, "--ldis=alpha.pth", "--out=x"], "no LDIS checkpoint"),
        (["--sd15=sd15", *CLIP, "--task=ldis1", "--out=busy"], "exists and is no model folder"),
        (
            ["--sd15=sd15", *CLIP, "--task=ldis1", "--vae=ViT.pt", "--out=x"],
            "config.json: cannot be read (Not a dir",
        ),
        (["--model=sd15", "--out=x"], "sd15: a diffusers pipeline, no LDIS model"),
        (["--model=sd15", "--task=ldis1", "--out=x"], "--task: has no effect with --model"),
        (["--sd15=sd15", "--to=ldis_pt", "--out=x.pt"], "--to: has no effect with --sd15"),
        (["--checkpoint=busy", "--out=x"], "busy/checkpoints: no checkpoint"),
        (["--sd15=v1-5.safetensors", *CLIP, "--task=ldis1", "--out=x"], "v1-5.safetensors: "),
        (["--model=model", "--to=ldis_pt", "--vae=sd15", "--out=x.pt"], "--vae: has no effect with --to=ldis_pt"),
        (["--model=model", "--to=ldis_pt", "--dtype=bfloat16", "--out=x.pt"], "--dtype: has no effect with --to"),
        (["--sd15=sd15", "--sd15_config=sd15", *CLIP, "--task=ldis1", "--out=x"], "--sd15_config: has no effect"),
        (["--sd15=v1-5.safetensors", "--variant=fp16", *CLIP, "--out=x"], "--variant: has no effect with --sd15=FILE"),
        (["--sd15=sd15", *CLIP, "--ldis=ldis1.pt", "--seed=5", "--out=x"], "--seed: has no effect with --ldis"),
        (["--sd15=sd15", *CLIP, "--zero_alpha", "--task=ldis1", "--out=x"], "--zero_alpha: has no effect with"),
        (["--sd15=sd15", "--alpha_clip=ViT.pt", "--task=ldis1", "--out=x"], "a TorchScript archive, which is code"),
        (["--sd15=sd15", "--alpha_clip=sd15", "--task=ldis1", "--out=x"], "sd15: cannot be read (Is a directory)"),
        (["--sd15=sd15", *CLIP, "--task=ldis1", f"--out={300 * 'x'}"], "cannot be written (File name too long)"),
        ([f"--sd15={300 * 'x'}", *CLIP, "--task=ldis1", "--out=x"], "no such folder"),
        (["--sd15=sd15", *CLIP, "--task=ldis1", "--out=/proc/nowhere/x"], "cannot be written"),
        (["--sd15=sd15", "--revision=main", *CLIP, "--task=ldis1", "--out=x"], "a local path has no revision"),
    ],
)
def test_convert_refuses_in_one_line_and_leaves_nothing(convert_to, tmp_path, arguments, message):
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "photo.jpg").write_bytes(b"1")
    before = sorted(tmp_path.rglob("*"))
    status, _, err = convert_to(*arguments)
    assert status == 2 and message in err, err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_convert_replaces_only_a_model_folder_with_nothing_else(convert_to, tmp_path):
    assert convert_to("--sd15=sd15", *CLIP, "--ldis=ldis1.pt", "--out=model")[0] == 0
    (tmp_path / "model" / "notes.txt").write_text("mine")
    status, _, err = convert_to("--model=model", "--out=model")
    assert status == 2 and "or holds more than one (notes.txt)" in err
    assert (tmp_path / "model" / "notes.txt").read_text() == "mine"


def test_convert_works_in_place_from_inside_the_folder(convert_to, tmp_path, monkeypatch):
    assert convert_to("--sd15=sd15", *CLIP, "--ldis=ldis1.pt", "--out=model")[0] == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    monkeypatch.chdir(tmp_path / "model")
    status, _, err = convert_to("--model=.", "--out=../model")
    assert status == 0, err
    assert load_model(tmp_path / "model").task == TASKS["ldis1"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize("failing", [1, 2])
def test_convert_brings_the_old_model_back_after_a_failed_move(convert_to, tmp_path, monkeypatch, failing):
    assert convert_to("--sd15=sd15", *CLIP, "--ldis=ldis1.pt", "--out=model")[0] == 0
    before, calls, rename = sorted(tmp_path.rglob("*")), [], Path.rename

    def flaky(self, target):
        calls.append(self)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", flaky)
    status, _, err = convert_to("--model=model", "--out=model")
    assert status == 1 and "model: cannot be written (No space left on device); free some space" in err
    assert sorted(tmp_path.rglob("*")) == before


def test_convert_does_not_draw_a_promised_adapter_again(convert_to, tmp_path):
    shutil.copytree(tmp_path / "sd15", tmp_path / "bad", symlinks=False)
    path = tmp_path / "bad" / "unet" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"encoder_hid_dim": 64}))
    status, _, err = convert_to("--sd15=bad", *CLIP, "--task=ldis1", "--out=model")
    assert status == 2 and "missing tensor encoder_hid_proj.bias [8], encoder_hid_proj.weight [8, 64]" in err


def test_convert_does_not_widen_five_channels(convert_to, tmp_path):
    shutil.copytree(tmp_path / "sd15", tmp_path / "bad", symlinks=False)
    unet = arrays(random_model(CONFIGS["ldis1"]).unet)
    unet["conv_in.weight"] = np.ones((8, 5, 3, 3), np.float32)
    unet = {n: a for n, a in unet.items() if not n.startswith("encoder_hid_proj")}
    foreign.write_network(tmp_path / "bad" / "unet", unet, "safetensors")
    status, _, err = convert_to("--sd15=bad", *CLIP, "--task=ldisn", "--out=model")
    assert status == 2 and "wrong tensor conv_in.weight [8, 5, 3, 3] (expected [8, 8, 3, 3])" in err


def test_convert_reads_the_schedule_of_a_single_file_from_sd15_config(convert_to, tmp_path):
    shutil.copytree(tmp_path / "sd15", tmp_path / "configs", symlinks=False)
    path = tmp_path / "configs" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "v_prediction"}))
    status, _, err = convert_to("--sd15=v1-5.safetensors", "--sd15_config=configs", *CLIP, "--task=ldisn", "--out=m")
    assert status == 0, err
    assert load_model("m").task.schedule.prediction_type == "v_prediction"


def test_convert_keeps_a_model_untrained_with_another_autoencoder(convert_to, tmp_path):
    vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )  # fmt: skip
    vae.save_pretrained(tmp_path / "taesd")
    assert convert_to("--sd15=sd15", *CLIP, "--task=ldis1", "--out=a")[0] == 0
    assert convert_to("--model=a", "--vae=taesd", "--out=b")[0] == 0
    card = Path("b/README.md").read_text()
    assert "Not trained for segmentation yet" in card and "taesd" in card


def spoil(folder, how):
    """Makes ``folder``, a copy of Stable Diffusion, what no one should load."""
    unet = folder / "unet"
    path, arrays_ = (
        unet / "diffusion_pytorch_model.safetensors",
        load_file(unet / "diffusion_pytorch_model.safetensors"),
    )
    config = json.loads((unet / "config.json").read_text())
    match how:
        case "malicious pickle" | "trillion elements":
            path.unlink()
            evil = Evil(folder.parent / "executed") if how == "malicious pickle" else torch.zeros(1).expand(10**12)
            torch.save({**arrays_, "conv_in.bias": evil}, path.with_suffix(".bin"))
        case "truncated":
            path.write_bytes(path.read_bytes()[:-100])
        case "lying header":
            path.write_bytes((10**12).to_bytes(8, "little") + path.read_bytes()[8:])
        case "fp8":
            save_file(arrays_ | {"conv_in.bias": arrays_["conv_in.bias"].to(torch.float8_e4m3fn)}, path)
        case "nan":
            save_file(arrays_ | {"conv_in.bias": torch.full_like(arrays_["conv_in.bias"], float("nan"))}, path)
        case "lora":
            save_file({"down_blocks.0.attentions.0.to_q.lora_A.weight": torch.ones(4, 16)}, path)
        case "sdxl":
            (unet / "config.json").write_text(json.dumps(config | {"addition_embed_type": "text_time"}))


HOSTILE = {
    "malicious pickle": "refused, it asks to load",
    "truncated": "safetensors: cannot be read (",
    "lying header": "safetensors: cannot be read (",
    "trillion elements": "wrong tensor conv_in.bias [1000000000000]",
    "nan": "conv_in.bias [8] holds NaN or infinity",
    "fp8": "wrong tensor conv_in.bias of type f8_e4m3",
    "lora": "a LoRA file, not a whole model",
    "sdxl": "addition_embed_type='text_time' is not supported",
}


@pytest.mark.parametrize("how", HOSTILE)
def test_convert_refuses_hostile_files_in_one_line_and_leaves_nothing(convert_to, tmp_path, how):
    shutil.copytree(tmp_path / "sd15", tmp_path / "bad", symlinks=False)
    spoil(tmp_path / "bad", how)
    before = sorted(tmp_path.rglob("*"))
    status, _, err = convert_to("--sd15=bad", *CLIP, "--task=ldis1", "--out=model")
    assert status == 2 and HOSTILE[how] in err, err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before  # nothing ran, nothing is left


def test_convert_leaves_nothing_after_a_fault_in_the_middle(convert_to, tmp_path):
    shutil.copytree(tmp_path / "sd15", tmp_path / "bad", symlinks=False)
    vae = arrays(random_model(CONFIGS["ldis1"]).vae)
    vae["decoder.conv_out.bias"] = np.full(3, np.nan, np.float32)
    foreign.write_network(tmp_path / "bad" / "vae", vae, "safetensors")
    before = sorted(tmp_path.rglob("*"))
    status, _, err = convert_to("--sd15=bad", *CLIP, "--task=ldis1", "--out=model")
    assert status == 2 and "decoder.conv_out.bias [3] holds NaN or infinity" in err
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_convert_help_does_not_wait_for_jax():
    code = (
        "import sys, runpy; sys.argv = ['convert', '--help']\n"
        "try: runpy.run_module('ldis_jax.convert', run_name='__main__')\n"
        "except SystemExit as e: assert not e.code\n"
        "assert not {'jax', 'torch', 'diffusers'} & set(sys.modules)"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "python -m ldis_jax.convert --task=ldisn" in result.stdout


def test_convert_puts_a_tiny_autoencoder_in_place_of_kl(convert_to, tmp_path):
    vae = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8), num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
    )  # fmt: skip
    vae.save_pretrained(tmp_path / "taesd")
    assert convert_to("--sd15=sd15", *CLIP, "--vae=taesd", "--task=ldisn", "--out=a")[0] == 0
    assert convert_to("--sd15=sd15", *CLIP, "--task=ldisn", "--out=b")[0] == 0
    assert convert_to("--model=b", "--vae=taesd", "--out=c")[0] == 0
    for folder in "ac":
        assert load_model(folder).model.config.vae.class_name == "AutoencoderTiny"
        theirs, info = diffusers.AutoencoderTiny.from_pretrained(f"{folder}/vae", output_loading_info=True)
        assert not any(info.values()), info
        for name, tensor in vae.state_dict().items():
            assert torch.equal(theirs.state_dict()[name], tensor)
    assert "AutoencoderTiny" in Path("c/README.md").read_text()
