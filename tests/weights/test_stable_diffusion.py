"""Stable Diffusion's folders and single files, and the paper's own checkpoints, in small."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from safetensors.torch import save_file  # noqa: E402

from ldis_jax.errors import LDISError  # noqa: E402
from ldis_jax.weights import save_model  # noqa: E402
from ldis_jax.weights.ldis_checkpoint import open_ldis_checkpoint, write_ldis_checkpoint  # noqa: E402
from ldis_jax.weights.model_folder import open_weights  # noqa: E402
from ldis_jax.weights.rules import match, to_torch  # noqa: E402
from ldis_jax.weights.stable_diffusion import adapt_unet, open_stable_diffusion  # noqa: E402
from ldis_jax.weights.tensors import from_array  # noqa: E402
from tests.reference import cases, foreign  # noqa: E402
from tests.reference.weights import arrays  # noqa: E402

FORMS = (
    "safetensors",
    "sharded",
    "fp16.safetensors",
    "fp16.sharded",
    "bin",
    "sharded.bin",
    "fp16.bin",
    "fp16.sharded.bin",
)
MODEL = "ldis1"


def sd_unet():
    """SD 1.5 has no adapter."""
    return {n: a for n, a in arrays(cases.model(MODEL).unet).items() if not n.startswith("encoder_hid_proj")}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sd") / "sd15"
    save_model(folder, cases.TASKS[MODEL], cases.model(MODEL))
    foreign.write_network(folder / "unet", sd_unet(), "safetensors")
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text())
    del config["encoder_hid_dim"], config["encoder_hid_dim_type"]  # as in SD 1.5's own file
    path.write_text(json.dumps(config))
    for name in ("ldis_config.json", "README.md", "prompt_encoder"):
        shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink()
    return folder


@pytest.fixture
def sd15(made, tmp_path) -> Path:
    """Stable Diffusion in small as diffusers stores it, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "sd15"))


def read_all(opened) -> dict[str, dict[str, np.ndarray]]:
    """Both networks, fully checked; the UNet with what LDIS needs."""
    config, unet = adapt_unet(
        opened.unet_config, opened.unet, cases.TASKS[MODEL], cases.CONFIGS[MODEL].prompt_encoder, seed=0
    )
    assert config == cases.CONFIGS[MODEL].unet
    model = cases.model(MODEL)
    found = {"unet": match(model.unet, unet), "vae": match(model.vae, opened.vae)}
    return {name: {key: t.read() for key, t in tensors.items()} for name, tensors in found.items()}


def assert_same(found, *, half=False):
    for name, truth in {"unet": sd_unet(), "vae": arrays(cases.model(MODEL).vae)}.items():
        for key, array in truth.items():
            np.testing.assert_array_equal(found[name][key], array.astype(np.float16) if half else array, err_msg=key)
    assert found["unet"].keys() - sd_unet().keys() == {"encoder_hid_proj.weight", "encoder_hid_proj.bias"}


@pytest.mark.parametrize("form", FORMS)
def test_open_stable_diffusion_reads_every_form_of_a_diffusers_folder(sd15, form):
    foreign.write_network(sd15 / "unet", sd_unet(), form)
    foreign.write_network(sd15 / "vae", arrays(cases.model(MODEL).vae), form)
    opened = open_stable_diffusion(sd15)
    assert_same(read_all(opened), half="fp16" in form)
    if "fp16" in form:
        assert_same(read_all(open_stable_diffusion(sd15, variant="fp16")), half=True)
        with pytest.raises(LDISError, match=r"non_ema\.safetensors: no such file, nor another form .* has diffusion"):
            open_stable_diffusion(sd15, variant="non_ema")


def test_open_stable_diffusion_prefers_full_precision_to_half(sd15):
    save_file(foreign.tensors(sd_unet(), torch.float16), sd15 / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    assert_same(read_all(open_stable_diffusion(sd15)))
    opened = open_stable_diffusion(Path(sd15), variant=None)
    assert opened.unet.tensors["conv_in.bias"].dtype == "float32"


@pytest.mark.parametrize("name", ["v1-5.safetensors", "v1-5.ckpt"])
def test_open_stable_diffusion_reads_the_original_single_file(sd15, tmp_path, name):
    state = foreign.original_names(sd_unet(), arrays(cases.model(MODEL).vae), 2, 4)
    path = tmp_path / name
    if name.endswith(".ckpt"):
        torch.save({"state_dict": foreign.tensors(state), "global_step": 840000}, path)
    else:
        save_file({key: tensor.contiguous() for key, tensor in foreign.tensors(state).items()}, path)
    assert_same(read_all(open_stable_diffusion(path, config_folder=sd15)))
    with pytest.raises(LDISError, match=r"wrong tensor .* and \d+ more|missing tensor|converter uses"):
        opened = open_stable_diffusion(path)  # SD 1.5's own sizes
        match(cases.model(MODEL).unet, opened.unet)


def test_open_stable_diffusion_reads_the_scheduler(sd15):
    path = sd15 / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"prediction_type": "v_prediction"}))
    assert open_stable_diffusion(sd15).schedule.prediction_type == "v_prediction"
    shutil.rmtree(sd15 / "scheduler")
    assert open_stable_diffusion(sd15).schedule.prediction_type == "epsilon"


def change_index(folder, change):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.pop("weight_map"), r"index\.json: cannot be read .*weight_map: Field required"),
        (lambda i: i.update(weight_map={}), "disagrees with .* about weight_map"),
        (lambda i: i["weight_map"].update({"conv_in.bias": 3}), r"weight_map\.conv_in\.bias: .* valid string"),
        (lambda i: i["weight_map"].update({"conv_in.bias": "../../secret.safetensors"}),
         r"disagrees with .* about \.\./\.\./secret\.safetensors"),
        (lambda i: i["weight_map"].update({"conv_in.bias": "/etc/passwd"}), "disagrees with .* about /etc/passwd"),
        (lambda i: i["weight_map"].update({"conv_in.bias": ".."}), "cannot be read .Is a directory"),
        (lambda i: i.update(weight_map={"conv_in.bias": "none.safetensors"}), r"none\.safetensors: cannot be read"),
        (lambda i: i["weight_map"].pop("conv_in.bias"), r"disagrees with .* about conv_in\.bias"),
        (lambda i: i["weight_map"].update({"surprise": "diffusion_pytorch_model-00001-of-00003.safetensors"}),
         r"disagrees with .* about surprise"),
    ],
)  # fmt: skip
def test_open_stable_diffusion_refuses_a_spoiled_index(sd15, change, message):
    foreign.write_network(sd15 / "unet", sd_unet(), "sharded")
    change_index(sd15, change)
    with pytest.raises(LDISError, match=message):
        open_stable_diffusion(sd15)


def spoil_tensors(folder, change):
    state = foreign.tensors(sd_unet())
    change(state)
    save_file(state, folder / "unet" / "diffusion_pytorch_model.safetensors")


def as_lora(state):
    state.clear()
    state["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"] = torch.ones(4, 16)


WRONG = {
    "nan": (lambda s: s["conv_in.bias"].fill_(float("nan")), r"conv_in\.bias \[16\] holds NaN or infinity"),
    "fp8": (
        lambda s: s.update({"conv_in.bias": s["conv_in.bias"].to(torch.float8_e4m3fn)}),
        r"wrong tensor conv_in\.bias of type f8_e4m3 \(expected one of float32, float16, bfloat16\)",
    ),
    "lora": (as_lora, "a LoRA file, not a whole model"),
    "float64": (lambda s: s.update({"conv_in.bias": s["conv_in.bias"].double()}), "of type float64"),
}


@pytest.mark.parametrize("name", WRONG)
def test_open_stable_diffusion_refuses_wrong_tensors_in_one_clear_line(sd15, name):
    change, message = WRONG[name]
    spoil_tensors(sd15, change)
    with pytest.raises(LDISError, match=message) as error:
        read_all(open_stable_diffusion(sd15))
    assert str(sd15 / "unet") in str(error.value) and "\n" not in str(error.value)


def test_open_stable_diffusion_refuses_a_tensor_of_a_trillion_elements(sd15):
    foreign.write_network(sd15 / "unet", sd_unet(), "bin")
    path = sd15 / "unet" / "diffusion_pytorch_model.bin"
    torch.save(foreign.tensors(sd_unet()) | {"conv_in.bias": torch.zeros(1).expand(10**12)}, path)
    with pytest.raises(LDISError, match=r"wrong tensor conv_in\.bias \[1000000000000\] \(expected \[16\]\)"):
        read_all(open_stable_diffusion(sd15))


def test_open_stable_diffusion_refuses_sdxl_in_one_clear_line(sd15):
    path = sd15 / "unet" / "config.json"
    sdxl = {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256, "use_linear_projection": True,
        "projection_class_embeddings_input_dim": 2816, "transformer_layers_per_block": [1, 2, 10],
    }  # fmt: skip
    path.write_text(json.dumps(json.loads(path.read_text()) | sdxl))
    with pytest.raises(LDISError, match=r"unet/config\.json: .*addition_embed_type='text_time' is not supported"):
        open_stable_diffusion(sd15)


def test_open_stable_diffusion_refuses_a_single_file_of_something_else(tmp_path):
    save_file({"conditioner.embedders.0.weight": torch.ones(2)}, tmp_path / "x.safetensors")
    with pytest.raises(
        LDISError,
        match=r"not Stable Diffusion 1\.5, .*: 0 first_stage.* 0 model\.diffusion_model\.\*",
    ):
        open_stable_diffusion(tmp_path / "x.safetensors")
    with pytest.raises(LDISError, match=r"none: cannot be read .No such file"):
        open_stable_diffusion(tmp_path / "none")


def test_open_stable_diffusion_refuses_tensors_the_converter_passes_over(sd15, tmp_path):
    state = foreign.original_names(sd_unet(), arrays(cases.model(MODEL).vae), 2, 4)
    for extra, message in (
        ("model.diffusion_model.surprise", "converter uses"),
        ("surprise.weight", r"unused surprise\.weight \[2\]"),
    ):
        torch.save(foreign.tensors(state | {extra: np.ones(2)}), tmp_path / "x.ckpt")
        with pytest.raises(LDISError, match=message):
            open_stable_diffusion(tmp_path / "x.ckpt", config_folder=sd15)


class TestPapersCheckpoints:
    """DeepSpeed's ``mp_rank_00_model_states.pt``."""

    @pytest.mark.parametrize("name", ["ldis1", "ldisn"])
    def test_open_ldis_checkpoint_then_write_ldis_checkpoint_is_exact(self, tmp_path, name):
        unet = cases.model(name).unet
        foreign.write_deepspeed(tmp_path / "a.pt", arrays(unet))
        task, weights = open_ldis_checkpoint(tmp_path / "a.pt")
        assert task == name
        write_ldis_checkpoint(tmp_path / "b.pt", match(unet, weights))
        a, b = (torch.load(tmp_path / f"{x}.pt", weights_only=True)["module"] for x in "ab")
        assert a.keys() == b.keys()
        for key, tensor in a.items():
            assert b[key].dtype == torch.float32 and torch.equal(b[key], tensor), key

    def test_write_ldis_checkpoint_writes_what_diffusers_loads(self, tmp_path, made):
        save_model(tmp_path / "model", cases.TASKS["ldisn"], cases.model("ldisn"))
        write_ldis_checkpoint(tmp_path / "x.pt", to_torch(cases.model("ldisn").unet))
        config = diffusers.UNet2DConditionModel.load_config(tmp_path / "model" / "unet")
        unet = diffusers.UNet2DConditionModel.from_config(config)
        unet.load_state_dict(torch.load(tmp_path / "x.pt", weights_only=True)["module"], strict=True)

    def test_open_ldis_checkpoint_reads_bfloat16(self, tmp_path):
        foreign.write_deepspeed(tmp_path / "x.pt", arrays(cases.model("ldis1").unet), torch.bfloat16)
        _, weights = open_ldis_checkpoint(tmp_path / "x.pt")
        for name, array in arrays(cases.model("ldis1").unet).items():
            truth = torch.from_numpy(np.array(array)).to(torch.bfloat16).float().numpy()
            np.testing.assert_array_equal(weights.tensors[name].read().astype(np.float32), truth)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"conv_in.weight": np.ones((16, 6, 3, 3))}, "no LDIS checkpoint, which has a conv_in.weight of 4 .* or 8"),
            ({"conv_in.weight": None}, "no LDIS checkpoint"),
            ({"encoder_hid_proj.weight": None}, "no LDIS checkpoint, .* and an encoder_hid_proj.weight"),
        ],
    )
    def test_open_ldis_checkpoint_refuses_other_checkpoints(self, tmp_path, change, message):
        state = arrays(cases.model("ldis1").unet) | change
        foreign.write_deepspeed(tmp_path / "x.pt", {k: v for k, v in state.items() if v is not None})
        with pytest.raises(LDISError, match=message):
            open_ldis_checkpoint(tmp_path / "x.pt")

    def test_write_ldis_checkpoint_leaves_nothing_when_it_fails(self, tmp_path):
        def fail():
            raise LDISError("unreadable")

        broken = {"a": from_array(np.ones(2, np.float32)), "b": type(from_array(np.ones(2)))((2,), "float32", fail)}
        with pytest.raises(LDISError, match="unreadable"):
            write_ldis_checkpoint(tmp_path / "x.pt", broken)
        assert not list(tmp_path.iterdir())


def test_open_weights_says_what_is_there_when_weights_are_missing(sd15):
    (sd15 / "vae" / "diffusion_pytorch_model.safetensors").rename(sd15 / "vae" / "other.safetensors")
    with pytest.raises(LDISError, match=r"no such file, nor another form of it; the folder has other\.safetensors"):
        open_weights(sd15 / "vae", "vae")
