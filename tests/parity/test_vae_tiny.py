"""AutoencoderTiny against diffusers on random weights, and against TAESD's own figures; what its latents mean."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from ldis_jax.models import AutoencoderTinyConfig, LDISModel
from ldis_jax.models.ldis import ModelConfig
from ldis_jax.tasks import LDIS1, PromptInputs
from ldis_jax.weights import fill, load_training_init, save_model
from ldis_jax.weights.model_folder import open_weights, read_vae_config, write_network
from tests.helpers import MICRO, SHARED, SIZE
from tests.reference import cases
from tests.reference.weights import as_weights, module_weights, random_model

TAESD = SHARED / "taesd"
SD = 0.18215
CONFIG = AutoencoderTinyConfig(
    encoder_block_out_channels=(8, 8, 8),
    decoder_block_out_channels=(12, 12, 12),
    num_encoder_blocks=(1, 2, 1),
    num_decoder_blocks=(2, 1, 1),
    scaling_factor=1.5,  # so that a factor in the wrong place shows
)


def abstract(config):
    return LDISModel.abstract(ModelConfig(vae=config)).vae


@pytest.fixture(scope="module")
def vae():
    return fill(abstract(CONFIG), module_weights("vae_tiny", abstract(CONFIG)))


def encode(vae, image):
    return cases.run(lambda vae, x: vae.encode(x), vae, image)


def decode(vae, latents):
    return cases.run(lambda vae, z: vae.decode(z), vae, latents)


def test_autoencoder_tiny_computes_the_same_as_diffusers(tmp_path, vae):
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    write_network(tmp_path, "vae", CONFIG, module_weights("vae_tiny", vae).tensors)
    theirs, info = diffusers.AutoencoderTiny.from_pretrained(tmp_path / "vae", output_loading_info=True)
    assert not any(info.values()), info
    assert read_vae_config(tmp_path / "vae") == CONFIG
    image, latents = cases.random_images("tiny", 2, size=32), cases.normal("tiny", 2, 8, 8, 4)
    with torch.no_grad():
        # diffusers' pipelines: scaled latents = encode(image) * scaling_factor, image = decode(scaled / scaling_factor)
        scaled = theirs.encode(torch.from_numpy(image).permute(0, 3, 1, 2)).latents * theirs.config.scaling_factor
        picture = theirs.decode(torch.from_numpy(latents).permute(0, 3, 1, 2) / theirs.config.scaling_factor).sample
    mean, std = encode(vae, image)
    truth = scaled.permute(0, 2, 3, 1).numpy()
    assert mean.shape == truth.shape and not std.any()
    assert np.abs(mean * vae.scaling_factor - truth).max() <= 1e-5 * np.abs(truth).max()
    ours, truth = decode(vae, latents / vae.scaling_factor), picture.permute(0, 2, 3, 1).numpy()
    assert np.abs(ours - truth).max() <= 1e-5 * np.abs(truth).max()


@pytest.mark.skipif(not TAESD.is_dir(), reason="TAESD's weights are not here")
def test_autoencoder_tiny_gives_taesds_own_figures():
    folder = TAESD / "taesd_diffusers_fp32"
    config = read_vae_config(folder)
    assert config == AutoencoderTinyConfig()
    taesd = fill(abstract(config), open_weights(folder, "vae"))
    reference = np.load(TAESD / "reference.npz")
    image = reference["image_uint8"].astype(np.float32)[None] / 127.5 - 1
    mean, _ = encode(taesd, image)
    truth = reference["latent"].transpose(1, 2, 0)  # scaled
    assert np.abs(mean[0] * taesd.scaling_factor - truth).max() <= 1e-5 * np.abs(truth).max()
    picture = np.clip((decode(taesd, truth[None] / taesd.scaling_factor)[0] + 1) / 2, 0, 1)
    truth = np.clip(reference["recon"].transpose(1, 2, 0), 0, 1)
    assert np.abs(picture - truth).max() <= 1e-5


def test_autoencoder_tiny_has_the_unscaled_latents_of_autoencoder_kl(vae):
    """Under either the UNet sees ``scaling_factor`` times what ``encode`` gives; SD's factor, not the file's."""
    assert vae.scaling_factor == SD != vae.config.scaling_factor
    assert LDISModel.abstract(ModelConfig()).vae.scaling_factor == SD


def test_autoencoder_tiny_serves_a_model_that_trains_and_predicts(tmp_path):
    config = ModelConfig(MICRO["ldis1"].unet, CONFIG, MICRO["ldis1"].prompt_encoder)
    task = LDIS1(image_size=SIZE)
    save_model(tmp_path / "model", task, random_model(config))
    model, frozen = load_training_init(tmp_path / "model", task, seed=0)
    assert model.config == config and frozen.keys() == {"vae", "prompt_encoder"}
    images, masks = cases.random_images("p", 1, 1, size=SIZE), cases.random_masks("p", 1, SIZE)[None]
    query = cases.random_images("q", 1, size=SIZE)
    keys = jax.random.split(jax.random.key(0), 1)
    painted = cases.run(task.predict, model, query, PromptInputs(images, masks), keys)
    assert painted.shape == query.shape and np.isfinite(painted).all()
    batch = {"query_image": query, "query_mask": masks[:, 0], "prompt_images": images, "prompt_masks": masks}
    loss = cases.run(lambda model, batch: task.loss(model, batch, jax.random.key(0)), model, batch)
    # The target is not sampled: the posterior is a point.
    again = cases.run(lambda model, batch: task.loss(model, batch, jax.random.key(1)), model, batch)
    assert loss > 0 and loss == again


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder_block_out_channels": [8, 16, 16]}, "must be equal"),
        ({"num_decoder_blocks": [1, 1]}, "decoder has 3 levels of channels and 2 of blocks"),
        ({"scaling_factor": 0.0}, "is out of range"),
        ({"act_fn": "gelu"}, "act_fn='gelu'"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_autoencoder_tiny_config_rejects_impossible_values(values, message):
    with pytest.raises(ValueError, match=message):
        AutoencoderTinyConfig.from_dict(CONFIG.to_dict() | values)


def test_fill_names_a_missing_tensor_of_autoencoder_tiny(vae):
    tensors = {name: tensor.read() for name, tensor in module_weights("vae_tiny", vae).tensors.items()}
    del tensors["decoder.layers.0.weight"]
    with pytest.raises(ValueError, match=r"missing tensor decoder\.layers\.0\.weight \[12, 4, 3, 3\]"):
        fill(abstract(CONFIG), as_weights(tensors))
