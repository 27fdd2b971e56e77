"""Prompt encoders from OpenAI's, Alpha-CLIP's and transformers' files."""

from __future__ import annotations

import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from ldis_jax.errors import LDISError  # noqa: E402
from ldis_jax.models import LDISModel, PromptEncoderConfig  # noqa: E402
from ldis_jax.models.ldis import ModelConfig  # noqa: E402
from ldis_jax.weights.clip import open_prompt_encoder  # noqa: E402
from ldis_jax.weights.rules import fill, match  # noqa: E402
from tests.reference import cases, foreign  # noqa: E402
from tests.reference.weights import module_weights  # noqa: E402

CONFIG = PromptEncoderConfig(image_size=28, patch_size=14, width=128, layers=2, heads=2)
IMAGES = cases.normal("clip", 2, 28, 28, 3)


def abstract(config=CONFIG):
    return LDISModel.abstract(ModelConfig(prompt_encoder=config)).prompt_encoder


def read(config, weights):
    return {name: tensor.read() for name, tensor in match(abstract(config), weights).items()}


@pytest.fixture(scope="module")
def tower():
    return {name: tensor.read() for name, tensor in module_weights("tower", abstract()).tensors.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tower):
    """Every file of a user: OpenAI's archive and state dict, Alpha-CLIP, two transformers folders."""
    tmp_path = tmp_path_factory.mktemp("clip")
    openai = foreign.openai_names(tower)
    foreign.write_torchscript(tmp_path / "ViT-L-14.pt", openai)
    torch.save(foreign.tensors(openai), tmp_path / "clip_state.pt")
    torch.save(foreign.tensors(tower), tmp_path / "alpha.pth")
    for name, prefix in {"clip_folder": "vision_model.", "vision_folder": ""}.items():
        folder = tmp_path / name
        folder.mkdir()
        foreign.write_network(folder, foreign.transformers_names(tower, prefix), "safetensors", "model")
        config = transformers.CLIPVisionConfig(
            hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=2, image_size=28,
            patch_size=14,
        ).to_dict()  # fmt: skip
        config = {"vision_config": config} if prefix else config
        (folder / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.fixture
def files(made, tmp_path):
    """The same, to be spoiled."""
    return shutil.copytree(made, tmp_path / "clip")


def expected(tower, alpha):
    return {name: array for name, array in tower.items() if alpha or name != "conv1_alpha.weight"}


@pytest.mark.parametrize(
    ("clip", "alpha", "exact"),
    [
        ("ViT-L-14.pt", "alpha.pth", True),  # every tensor of the archive is replaced
        ("clip_state.pt", "alpha.pth", True),
        ("clip_folder", "alpha.pth", True),
        (None, "alpha.pth", True),
        ("clip_state.pt", None, True),
        ("clip_folder", None, True),
        ("vision_folder", None, True),
        ("ViT-L-14.pt", None, False),  # the archive is float16
    ],
)
def test_open_prompt_encoder_reads_every_source_alike(files, tower, clip, alpha, exact):
    config, weights = open_prompt_encoder(clip and files / clip, alpha and files / alpha)
    assert config == PromptEncoderConfig(**{**vars(CONFIG), "alpha": alpha is not None})
    found, truth = read(config, weights), expected(tower, alpha)
    assert found.keys() == truth.keys()
    for name, array in truth.items():
        np.testing.assert_array_equal(found[name], array if exact else array.astype(np.float16), err_msg=name)


def test_open_prompt_encoder_lays_a_partial_alpha_clip_over_clip(files, tower):
    parts = {name: array + 1 for name, array in tower.items() if "conv1" in name or "attn" in name}
    torch.save(foreign.tensors(parts), files / "partial.pth")
    found = read(*open_prompt_encoder(files / "clip_state.pt", files / "partial.pth"))
    for name, array in tower.items():
        np.testing.assert_array_equal(found[name], parts.get(name, array))


def test_open_prompt_encoder_can_set_alpha_to_zero(files):
    config, weights = open_prompt_encoder(files / "clip_folder", None, zero_alpha=True)
    assert config == CONFIG
    assert not read(config, weights)["conv1_alpha.weight"].any()


def test_open_prompt_encoder_gives_the_tokens_of_transformers(tmp_path):
    config = transformers.CLIPVisionConfig(
        hidden_size=128, intermediate_size=512, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    torch.manual_seed(0)
    theirs = transformers.CLIPVisionModel(config).eval()
    theirs.save_pretrained(tmp_path / "clip")
    ours = fill(abstract(PromptEncoderConfig(**{**vars(CONFIG), "alpha": False})),
                open_prompt_encoder(tmp_path / "clip", None)[1])  # fmt: skip
    with torch.no_grad():
        pixels = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)
        truth = theirs(pixels, output_hidden_states=True).hidden_states[-1][:, 1:].numpy()
    found = cases.run(lambda tower, x, a: tower(x, a), ours, IMAGES, jnp.zeros((2, 28, 28)))
    assert np.abs(found - truth).max() <= 1e-5 * np.abs(truth).max()


def test_open_prompt_encoder_refuses_a_resnet_clip(files):
    torch.save({"visual.layer1.0.conv1.weight": torch.ones(2, 2)}, files / "rn50.pt")
    with pytest.raises(LDISError, match=r"rn50.pt: no tensor conv1.weight with 4 axes; expected CLIP's ViT-L/14"):
        open_prompt_encoder(files / "rn50.pt", None)


def test_open_prompt_encoder_refuses_swapped_arguments(files):
    with pytest.raises(
        LDISError, match=r"clip_state.pt: no tensor conv1_alpha.weight with 4 axes; .* of --alpha_clip one with alpha"
    ):
        open_prompt_encoder(None, files / "clip_state.pt")


def test_open_prompt_encoder_refuses_unknown_and_lora_tensors(files, tower):
    for extra, message in (
        ("visual.surprise", r"state.pt: unused tensor surprise \[3\]"),
        ("visual.transformer.resblocks.0.attn.in_proj.lora_A", "a LoRA file"),
    ):
        state = foreign.openai_names(tower) | {extra: np.ones(3)}
        torch.save(foreign.tensors(state), files / "state.pt")
        with pytest.raises(LDISError, match=message):
            read(*open_prompt_encoder(files / "state.pt", None))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"layer_norm_eps": 1e-6}, "layer_norm_eps"),
        ({"num_attention_heads": 3}, "do not divide by patch_size and heads"),
        ({"num_hidden_layers": 3}, r"missing tensor transformer\.resblocks\.2\."),
        ({"num_hidden_layers": 1}, r"unused tensor transformer\.resblocks\.1\."),
        ({"image_size": 56}, r"wrong tensor positional_embedding \[5, 128\]"),
    ],
)
def test_open_prompt_encoder_refuses_configs_that_do_not_fit(files, values, message):
    path = files / "vision_folder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(LDISError, match=message):
        read(*open_prompt_encoder(files / "vision_folder", None))


def test_open_prompt_encoder_names_a_missing_projection(files, tower):
    state = foreign.transformers_names(tower)
    del state["vision_model.encoder.layers.1.self_attn.k_proj.bias"]
    foreign.write_network(files / "clip_folder", state, "safetensors", "model")
    with pytest.raises(LDISError, match=r"missing tensor transformer.resblocks.1.attn.in_proj.bias \[384\]"):
        read(*open_prompt_encoder(files / "clip_folder", None))
