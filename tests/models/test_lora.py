"""LoRA of the UNet: which layers, how many parameters, and the same outputs and gradients as in torch."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ldis_jax.errors import LDISError
from ldis_jax.models import LDISModel, LoRA
from ldis_jax.models.config import UNetConfig
from ldis_jax.models.ldis import ModelConfig
from ldis_jax.models.params import flatten, unflatten
from ldis_jax.tasks import instruction
from ldis_jax.weights import rules, save_model
from ldis_jax.weights.lora_files import fresh_pairs, trained_part, write_lora
from ldis_jax.weights.rules import fill, table, to_torch
from ldis_jax.weights.tensors import Weights
from tests.models.test_param_counts import ADAPTER, SD15_UNET
from tests.reference import cases
from tests.reference.weights import module_weights

if TYPE_CHECKING:
    import torch

NAME = "noised"  # of the small networks with alpha; the task has no part in this
RANK3 = LoRA(3, alpha=1.5)


def adapted(lora: LoRA) -> LDISModel:
    """The small model with a random value in every parameter, the pairs included."""
    model = LDISModel.abstract(cases.CONFIGS[NAME], lora=lora)
    model.unet = fill(model.unet, module_weights("unet", model.unet))
    model.vae, model.prompt_encoder = cases.model(NAME).vae, cases.model(NAME).prompt_encoder
    return model


@pytest.mark.parametrize(
    ("channels", "lora", "also"),
    [
        (4, LoRA(4), ADAPTER),
        (4, LoRA(1), ADAPTER),
        (8, LoRA(4, also=("encoder_hid_proj", "conv_in")), ADAPTER + 320 * 8 * 9 + 320),
    ],
)
def test_lora_has_the_parameter_counts_of_diffusers_at_sd15_size(channels, lora, also):
    """797,184 is what diffusers' own LoRA of rank 4 has for SD 1.5."""
    model = LDISModel.abstract(ModelConfig(UNetConfig(in_channels=channels)), lora=lora)
    _, trained, frozen = flatten(model)
    pairs = {name: value.size for name, value in trained.items() if "lora" in name}
    assert len(pairs) == 16 * 2 * 4 * 2  # blocks, attentions, projections, A and B
    assert sum(pairs.values()) == 797_184 * lora.rank // 4
    assert sum(value.size for value in trained.values()) == sum(pairs.values()) + also
    unet = sum(value.size for name, value in frozen.items() if name.startswith("unet/"))
    assert unet == SD15_UNET + ADAPTER + 4 * 9 * 320 * (channels == 8) - also


def test_fresh_pairs_change_nothing():
    model = LDISModel.abstract(cases.CONFIGS[NAME], lora=RANK3)
    pairs = fresh_pairs(table(model.unet), RANK3, seed=5)
    draws = [tensor.read() for name, tensor in pairs.items() if "lora_A" in name]
    std = np.concatenate([draw.ravel() for draw in draws]).std()
    assert abs(std - 1 / 3) < 0.01
    assert not any(tensor.read().any() for name, tensor in pairs.items() if "lora_B" in name)
    assert len({draw.tobytes() for draw in draws}) == len(draws)
    again = fresh_pairs(table(model.unet), RANK3, seed=5)
    assert all((again[name].read() == pairs[name].read()).all() for name in pairs)


def test_lora_trains_float32_over_a_base_in_bfloat16():
    model = LDISModel.abstract(cases.CONFIGS[NAME], dtype="bfloat16", lora=RANK3)
    model.unet = fill(model.unet, module_weights("unet", model.unet), dtype=jnp.bfloat16, float32=RANK3.trains)
    _, trained, frozen = flatten(model)
    assert {value.dtype.name for value in trained.values()} == {"float32"}
    assert {v.dtype.name for n, v in frozen.items() if n.startswith("unet/")} == {"bfloat16"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank": -1}, "rank=-1"),
        ({"rank": 4, "alpha": float("inf")}, "alpha=inf"),
        ({"rank": 4, "also": "conv_in"}, "also='conv_in'"),
        ({"rank": 4, "dropout": 0.1}, "dropout=0.1 is not a usable key"),
    ],
)
def test_lora_from_dict_refuses_wrong_settings(values, message):
    with pytest.raises(LDISError, match=message):
        LoRA.from_dict(values, "config.lora")


def test_lora_from_dict_reads_settings():
    assert LoRA.from_dict({"rank": 0}, "config.lora") is None
    assert LoRA.from_dict({"rank": 8, "alpha": 4.0, "also": ["conv_in"]}, "x") == LoRA(8, 4.0, ("conv_in",))
    assert (LoRA(8, 4.0).scale, LoRA(8).scale) == (0.5, 1.0)
    with pytest.raises(LDISError, match="conv_inn is no part of the UNet"):
        LDISModel.abstract(cases.CONFIGS[NAME], lora=LoRA(1, also=("conv_inn",)))


def inputs() -> list[np.ndarray]:
    """The rows of ``cases.unet_inputs`` that have tokens on the object."""
    return [array[cases.UNET_ROWS["masked"]] for array in cases.unet_inputs(NAME)]


@functools.cache
def our_side() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(what the UNet paints, gradient of its mean square for every trained tensor under torch's names)."""
    graphdef, trained, frozen = flatten(adapted(RANK3))
    latents, timesteps, tokens, token_mask = inputs()

    @jax.jit
    def step(trained, frozen):
        def loss(trained):
            unet = unflatten(graphdef, trained, frozen).unet
            painted = unet(latents, timesteps, tokens, instruction.attention_bias(jnp.asarray(token_mask)))
            return jnp.mean(jnp.square(painted)), painted

        return jax.grad(loss, has_aux=True)(trained)

    with jax.default_matmul_precision("highest"):
        gradients, painted = step(trained, frozen)
    entries = rules.table(LDISModel.abstract(cases.CONFIGS[NAME], lora=RANK3).unet)
    names = {"/".join(map(str, ("unet", *entry.path))): name for name, entry in entries.items()}
    axes = {name: entry.to_torch for name, entry in entries.items()}
    return np.asarray(painted), {
        names[path]: np.transpose(np.asarray(value), axes[names[path]]) for path, value in gradients.items()
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """``model/`` without LoRA and ``lora.safetensors``."""
    root = tmp_path_factory.mktemp("lora")
    save_model(root / "model", cases.TASKS[NAME], cases.model(NAME))
    trained = trained_part(to_torch(adapted(RANK3).unet), RANK3)
    write_lora(root / "lora.safetensors", cases.TASKS[NAME], trained, "the card")
    return root


def torch_inputs() -> dict[str, torch.Tensor]:
    import torch

    from tests.reference.torch_ldis import nchw

    latents, timesteps, tokens, token_mask = inputs()
    return {
        "sample": nchw(latents),
        "timestep": torch.from_numpy(timesteps),
        "encoder_hidden_states": torch.from_numpy(tokens),
        "encoder_attention_mask": torch.from_numpy(token_mask),
    }


def test_lora_has_the_outputs_and_gradients_of_torch(files):
    """The low-rank path written out as hooks on diffusers' own UNet, fed by the file."""
    pytest.importorskip("diffusers")
    from tests.reference.torch_ldis import add_lora, nhwc, torch_unet

    unet = torch_unet(files / "model")
    pairs, whole = add_lora(unet, files / "lora.safetensors")
    assert whole == {"encoder_hid_proj.weight", "encoder_hid_proj.bias"}
    painted = unet(**torch_inputs()).sample
    painted.square().mean().backward()
    ours, gradients = our_side()
    truth = nhwc(painted)
    assert np.abs(ours - truth).max() <= 5e-5 * np.abs(truth).max()
    expected = {name: tensor.grad.numpy() for name, tensor in pairs.items()}
    expected |= {name: unet.get_parameter(name).grad.numpy() for name in whole}
    assert gradients.keys() == expected.keys()
    for name, gradient in gradients.items():
        # The file holds the scale in B, so that B's gradient there is that of scale x B.
        found = gradient / RANK3.scale if "lora_B" in name else gradient
        largest = np.abs(expected[name]).max()
        assert largest > 0 and np.abs(found - expected[name]).max() <= 5e-5 * largest, name


def test_write_lora_writes_a_file_that_peft_reads(files):
    """The loader of diffusers, which needs peft; its check wants LoRA alone, so the adapter goes in by hand."""
    pytest.importorskip("peft")
    import torch
    from safetensors.torch import load_file

    from tests.reference.torch_ldis import nhwc, torch_unet

    tensors = load_file(files / "lora.safetensors")
    unet = torch_unet(files / "model")
    unet.load_lora_adapter({n: t for n, t in tensors.items() if "lora" in n}, prefix="unet")
    rest = {n.removeprefix("unet."): t for n, t in tensors.items() if "lora" not in n}
    assert not unet.load_state_dict(rest, strict=False).unexpected_keys
    with torch.no_grad():
        truth = nhwc(unet(**torch_inputs()).sample)
    assert np.abs(our_side()[0] - truth).max() <= 5e-5 * np.abs(truth).max()


def test_write_lora_uses_the_names_of_diffusers_modules(files):
    pytest.importorskip("diffusers")
    from safetensors import safe_open

    from tests.reference.torch_ldis import torch_unet

    modules = dict(torch_unet(files / "model").named_modules())
    with safe_open(files / "lora.safetensors", framework="np") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        assert json.loads(file.metadata()["ldis_config"]) == cases.TASKS[NAME].to_dict()
    layers = {name.rsplit(".lora_", 1)[0] for name in shapes if ".lora_" in name}
    assert layers == {f"unet.{n}" for n in modules if n.endswith(("to_q", "to_k", "to_v", "to_out.0"))}
    for layer in layers:
        linear = modules[layer.removeprefix("unet.")]
        assert shapes[f"{layer}.lora_A.weight"] == (3, linear.in_features)
        assert shapes[f"{layer}.lora_B.weight"] == (linear.out_features, 3)


def test_lora_makes_no_gradient_of_a_frozen_kernels_size():
    """Where B A is added to W inside the step, every adapted layer's backward pass makes one."""
    lora = LoRA(2)
    config = cases.CONFIGS[NAME]
    graphdef, trained, frozen = flatten(LDISModel.abstract(config, lora=lora))
    latents, timesteps, tokens, _ = cases.unet_inputs(NAME)

    def loss(trained, frozen):
        return jnp.mean(jnp.square(unflatten(graphdef, trained, frozen).unet(latents, timesteps, tokens)))

    jaxpr = jax.make_jaxpr(jax.grad(loss))(trained, frozen)
    kernel = frozen["unet/mid_block/attentions/0/transformer_blocks/0/attn1/to_q/kernel"].shape
    products = [eqn.outvars[0].aval.shape for eqn in jaxpr.eqns if eqn.primitive.name == "dot_general"]
    assert (kernel[0], 2) in products or (2, kernel[0]) in products
    assert kernel not in products


def test_merge_gives_lazy_weights_in_float32():
    from ldis_jax.weights.lora_files import merge

    base = Weights(to_torch(cases.model(NAME).unet), "base")
    merged = merge(base, trained_part(to_torch(adapted(RANK3).unet), RANK3))
    assert merged.tensors.keys() == base.tensors.keys()
    assert {tensor.dtype for tensor in merged.tensors.values()} == {"float32"}
