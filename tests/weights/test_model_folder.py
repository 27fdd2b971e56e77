"""Model folders: exact there and back, readable by diffusers, and no silent mistakes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from ldis_jax.diffusion import NoiseSchedule
from ldis_jax.errors import LDISError
from ldis_jax.models import LDISModel
from ldis_jax.tasks import LDISN
from ldis_jax.weights import load_model, load_training_init, save_model
from ldis_jax.weights import model_folder as folder_module
from tests.reference import cases
from tests.reference.weights import arrays

FILES = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "prompt_encoder": "model.safetensors",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Every small model as a folder, only to be read."""
    root = tmp_path_factory.mktemp("models")
    for name, task in cases.TASKS.items():
        save_model(root / name, task, cases.model(name))
    return root


@pytest.fixture
def saved(tmp_path, folders) -> Path:
    """The small LDIS-1 without adapter or alpha, as a folder that a test may spoil."""
    return Path(shutil.copytree(folders / "plain", tmp_path / "model"))


def tensors_of(model: LDISModel, network: str) -> dict[str, np.ndarray]:
    return arrays(getattr(model, network))


def assert_equal(ours: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert ours.keys() == expected.keys()
    for name, tensor in expected.items():
        assert ours[name].dtype == tensor.dtype
        np.testing.assert_array_equal(ours[name], tensor, err_msg=name)


def change_tensors(folder: Path, network: str, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    path = folder / network / FILES[network]
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("name", ["plain", "ldisn"])
def test_save_model_then_load_model_is_exact(tmp_path, name):
    task = cases.TASKS[name]
    if isinstance(task, LDISN):
        task = LDISN(image_size=64, num_steps=7, schedule=NoiseSchedule(prediction_type="v_prediction"))
    save_model(tmp_path / "a", task, cases.model(name))
    loaded = load_model(tmp_path / "a")
    assert loaded.task == task
    assert loaded.model.config == cases.CONFIGS[name]
    for network in FILES:
        assert_equal(tensors_of(loaded.model, network), tensors_of(cases.model(name), network))
    save_model(tmp_path / "b", loaded.task, loaded.model)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(tmp_path / "b") for p in (tmp_path / "b").rglob("*") if p.is_file())
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_save_model_then_load_model_keeps_bfloat16(tmp_path, saved):
    half = load_model(saved, dtype=jnp.bfloat16)
    save_model(tmp_path / "half", *half)
    again = load_model(tmp_path / "half", dtype=jnp.bfloat16)
    for network in FILES:
        assert_equal(tensors_of(again.model, network), tensors_of(half.model, network))
        assert {tensor.dtype.name for tensor in tensors_of(again.model, network).values()} == {"bfloat16"}


@pytest.mark.parametrize("name", ["plain", "ldisn"])
def test_save_model_writes_unet_and_vae_that_diffusers_loads(folders, name):
    pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    for network, kind in {"unet": diffusers.UNet2DConditionModel, "vae": diffusers.AutoencoderKL}.items():
        # That its output is ours too is test_parity's, which reads the same folders.
        theirs, info = kind.from_pretrained(folders / name / network, output_loading_info=True)
        assert not any(info.values()), info
        parameters = {key: value.detach().numpy() for key, value in theirs.named_parameters()}
        assert_equal(parameters, tensors_of(cases.model(name), network))
    for kind in (diffusers.DDPMScheduler, diffusers.DDIMScheduler):
        scheduler = kind.from_pretrained(folders / name / "scheduler")
        scheduler.set_timesteps(20)
        np.testing.assert_array_equal(scheduler.timesteps, NoiseSchedule().timesteps(20))
        np.testing.assert_allclose(scheduler.alphas_cumprod, NoiseSchedule().alphas_cumprod, rtol=1e-5)
        assert not scheduler.config.clip_sample


@pytest.mark.parametrize("network", FILES)
def test_load_model_refuses_spoiled_tensors(saved, network):
    path, spoiled = saved / network / FILES[network], sorted(tensors_of(cases.model("plain"), network))[0]
    whole = path.read_bytes()

    def narrow(tensors: dict[str, np.ndarray]) -> None:
        tensors[spoiled] = tensors[spoiled][:-1]

    def widen(tensors: dict[str, np.ndarray]) -> None:
        tensors[spoiled] = tensors[spoiled].astype(np.int32)

    for change, what in (
        (lambda tensors: tensors.pop(spoiled), f"missing tensor {spoiled}"),
        (lambda tensors: tensors.update(surprise=np.zeros(2, np.float32)), "unused tensor surprise"),
        (narrow, f"wrong tensor {spoiled}"),
        (widen, f"wrong tensor {spoiled} of type int32"),
    ):
        change_tensors(saved, network, change)
        with pytest.raises(LDISError) as error:
            load_model(saved)
        assert str(path) in str(error.value)
        assert what in str(error.value)
        path.write_bytes(whole)
    load_model(saved)


@pytest.mark.parametrize(
    "file", ["ldis_config.json", "unet/config.json", "vae/config.json", "prompt_encoder/config.json"]
)
def test_load_model_refuses_an_unknown_config_key(saved, file):
    change_json(saved / file, surprise=1)
    with pytest.raises(LDISError, match="surprise") as error:
        load_model(saved)
    assert file in str(error.value)


def test_load_model_refuses_an_unknown_scheduler_key(tmp_path, folders):
    folder = Path(shutil.copytree(folders / "ldisn", tmp_path / "model"))
    change_json(folder / "scheduler" / "scheduler_config.json", surprise=1)
    with pytest.raises(LDISError, match=r"scheduler_config\.json.*surprise"):
        load_model(folder)


@pytest.mark.parametrize("file", ["ldis_config.json", "vae/config.json", f"unet/{FILES['unet']}"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff\xfe"])
def test_load_model_refuses_a_missing_or_broken_file(saved, file, content):
    if content is None:
        (saved / file).unlink()
    else:
        (saved / file).write_bytes(content)
    with pytest.raises(LDISError, match=file):
        load_model(saved)


def test_load_model_refuses_truncated_weights(saved):
    path = saved / "unet" / FILES["unet"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LDISError, match="safetensors"):
        load_model(saved)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("ldis_config.json", {"image_size": 60}),
        ("unet/config.json", {"in_channels": 8}),
        ("unet/config.json", {"out_channels": 8}),
        ("unet/config.json", {"cross_attention_dim": 48}),
        ("vae/config.json", {"latent_channels": 8}),
    ],
)
def test_load_model_refuses_networks_that_do_not_fit_each_other(saved, file, values):
    change_json(saved / file, **values)
    with pytest.raises(LDISError, match=str(saved)):
        load_model(saved)


def test_load_model_reads_old_vae_attention_names(saved):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: dict[str, np.ndarray]) -> None:
        for name in [name for name in tensors if ".attentions." in name and "group_norm" not in name]:
            prefix, leaf = name.split(".attentions.0.")
            part, kind = leaf.rsplit(".", 1)
            tensors[f"{prefix}.attentions.0.{old[part]}.{kind}"] = tensors.pop(name)

    change_tensors(saved, "vae", rename)
    assert "decoder.mid_block.attentions.0.proj_attn.bias" in load_file(saved / "vae" / FILES["vae"])
    assert_equal(tensors_of(load_model(saved).model, "vae"), tensors_of(cases.model("plain"), "vae"))


def test_load_model_skips_clips_final_norm_and_projection(saved):
    width = cases.CONFIGS["plain"].prompt_encoder.width
    extra = {name: np.ones(width, np.float32) for name in ("ln_post.weight", "ln_post.bias", "proj")}
    change_tensors(saved, "prompt_encoder", lambda tensors: tensors.update(extra))
    loaded = tensors_of(load_model(saved).model, "prompt_encoder")
    assert_equal(loaded, tensors_of(cases.model("plain"), "prompt_encoder"))


def test_save_model_replaces_a_model_but_nothing_else(tmp_path, saved):
    save_model(saved, cases.TASKS["ldis1"], cases.model("ldis1"))
    assert load_model(saved).task == cases.TASKS["ldis1"]
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_bytes(b"1")
    (tmp_path / "empty").mkdir()
    save_model(tmp_path / "empty", cases.TASKS["plain"], cases.model("plain"))
    assert load_model(tmp_path / "empty").task == cases.TASKS["plain"]
    with pytest.raises(LDISError, match="no model folder"):
        save_model(tmp_path / "holiday", cases.TASKS["plain"], cases.model("plain"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "holiday", "model"]


def test_save_model_leaves_the_old_model_when_it_fails(tmp_path, saved, monkeypatch):
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(folder_module, "write_safetensors", fail)
    with pytest.raises(LDISError, match=r"model: cannot be written \(disk full\)"):
        save_model(saved, cases.TASKS["ldis1"], cases.model("ldis1"))
    assert load_model(saved).task == cases.TASKS["plain"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


class TestTrainingInit:
    """``load_training_init`` from a folder such as a user of Stable Diffusion 1.5 has."""

    @pytest.fixture
    def sd15(self, tmp_path, folders) -> Path:
        """SD 1.5's UNet and configs in small: no adapter, four channels, the keys of its day."""
        folder = Path(shutil.copytree(folders / "ldis1", tmp_path / "sd15"))
        (folder / "ldis_config.json").unlink()

        def drop_adapter(tensors: dict[str, np.ndarray]) -> None:
            del tensors["encoder_hid_proj.weight"], tensors["encoder_hid_proj.bias"]

        change_tensors(folder, "unet", drop_adapter)
        config = json.loads((folder / "unet" / "config.json").read_text())
        del config["encoder_hid_dim"], config["encoder_hid_dim_type"]
        (folder / "unet" / "config.json").write_text(json.dumps(config))
        change_json(folder / "unet" / "config.json", encoder_hid_dim=None, act_fn="silu", freq_shift=0)
        pndm = {
            "_class_name": "PNDMScheduler",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "num_train_timesteps": 1000,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "trained_betas": None,
            "clip_sample": False,
        }
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(pndm))
        return folder

    def test_load_training_init_adds_channels_and_adapter_for_ldisn(self, sd15):
        model = load_training_init(sd15, cases.TASKS["ldisn"], seed=0).model
        source, unet = tensors_of(cases.model("ldis1"), "unet"), tensors_of(model, "unet")
        conv_in, adapter = unet.pop("conv_in.weight"), unet.pop("encoder_hid_proj.weight")
        np.testing.assert_array_equal(conv_in[:, :4], source.pop("conv_in.weight"))
        np.testing.assert_array_equal(conv_in[:, 4:], np.zeros((16, 4, 3, 3)))
        np.testing.assert_array_equal(unet.pop("encoder_hid_proj.bias"), np.zeros(24))
        assert adapter.shape == source.pop("encoder_hid_proj.weight").shape
        del source["encoder_hid_proj.bias"]
        assert_equal(unet, source)  # conv_in's bias among them
        # torch's default for a Linear: uniform within 1 / sqrt(fan_in)
        bound = 48**-0.5
        assert 0.98 * bound < np.abs(adapter).max() <= bound
        assert adapter.std() == pytest.approx(bound / 3**0.5, rel=0.1)
        for network in ("vae", "prompt_encoder"):
            assert_equal(tensors_of(model, network), tensors_of(cases.model("ldis1"), network))

    def test_load_training_init_adds_input_channels_that_change_nothing(self, sd15):
        ldisn = load_training_init(sd15, cases.TASKS["ldisn"], seed=0).model.unet
        ldis1 = load_training_init(sd15, cases.TASKS["ldis1"], seed=0).model.unet
        latents = jnp.asarray(cases.normal("init", 1, 8, 8, 8))
        np.testing.assert_allclose(ldisn.conv_in(latents), ldis1.conv_in(latents[..., :4]), atol=1e-6)

    def test_load_training_init_draws_the_adapter_from_the_seed(self, sd15):
        def adapter(seed: int) -> np.ndarray:
            model = load_training_init(sd15, cases.TASKS["ldis1"], seed=seed).model
            return tensors_of(model, "unet")["encoder_hid_proj.weight"]

        np.testing.assert_array_equal(adapter(0), adapter(0))
        assert (adapter(0) != adapter(1)).any()

    def test_load_training_init_continues_an_ldis_model_as_it_is(self, folders):
        model = load_training_init(folders / "ldisn", cases.TASKS["ldisn"], seed=0).model
        assert_equal(tensors_of(model, "unet"), tensors_of(cases.model("ldisn"), "unet"))

    def test_load_training_init_cannot_turn_ldisn_into_ldis1(self, folders):
        with pytest.raises(LDISError, match=r"conv_in\.weight"):
            load_training_init(folders / "ldisn", cases.TASKS["ldis1"], seed=0)

    def test_load_training_init_can_store_frozen_networks_in_half(self, sd15):
        model = load_training_init(sd15, cases.TASKS["ldisn"], seed=0, frozen_dtype=jnp.bfloat16).model
        kinds = {network: {t.dtype.name for t in tensors_of(model, network).values()} for network in FILES}
        assert kinds == {"unet": {"float32"}, "vae": {"bfloat16"}, "prompt_encoder": {"bfloat16"}}

    def test_load_training_init_from_scratch_needs_no_unet(self, sd15):
        (sd15 / "unet" / FILES["unet"]).unlink()
        sizes = {**cases.CONFIGS["plain"].unet.to_dict(), "cross_attention_dim": 16}
        model = load_training_init(sd15, cases.TASKS["ldisn"], sizes, seed=0).model
        assert model.unet.config.in_channels == 8
        assert model.unet.config.encoder_hid_dim == 48
        unet = tensors_of(model, "unet")
        assert unet["encoder_hid_proj.weight"].shape == (16, 48)
        assert all(np.isfinite(tensor).all() for tensor in unet.values())
        with pytest.raises(LDISError, match="surprise"):
            load_training_init(sd15, cases.TASKS["ldisn"], {"surprise": 1}, seed=0)

    def test_load_training_init_refuses_a_spoiled_unet(self, sd15):
        change_tensors(sd15, "unet", lambda tensors: tensors.pop("conv_in.weight"))
        with pytest.raises(LDISError, match=r"missing tensor conv_in\.weight"):
            load_training_init(sd15, cases.TASKS["ldisn"], seed=0)
