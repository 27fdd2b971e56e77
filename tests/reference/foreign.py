"""Weights in the shapes that users own, written from arrays under our names. Needs torch."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

Arrays = Mapping[str, np.ndarray]


def tensors(arrays: Arrays, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """Torch tensors of a state dict."""
    return {name: torch.from_numpy(np.array(array, np.float32, order="C")).to(dtype) for name, array in arrays.items()}


# --- Stable Diffusion ---


def write_network(folder: Path, arrays: Arrays, form: str, stem: str = "diffusion_pytorch_model") -> None:
    """Weights of one network as diffusers or transformers store them, ``config.json`` left alone.

    ``form``: "safetensors", "fp16.safetensors", "bin", "fp16.bin", "sharded", "fp16.sharded" or "sharded.bin".
    """
    for old in folder.glob(f"{stem}*"):
        old.unlink()
    variant = ".fp16" if form.startswith("fp16.") else ""
    state = tensors(arrays, torch.float16 if variant else torch.float32)
    kind = "bin" if form.endswith("bin") else "safetensors"
    save: Callable[..., None] = torch.save if kind == "bin" else save_file
    if "sharded" not in form:
        save(state, folder / f"{stem}{variant}.{kind}")
        return
    weight_map, names = {}, sorted(state)
    for i in range(3):
        file = f"{stem}{variant}-{i + 1:05}-of-00003.{kind}"
        save({name: state[name] for name in names[i::3]}, folder / file)
        weight_map |= dict.fromkeys(names[i::3], file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / f"{stem}.{kind}.index{variant}.json").write_text(json.dumps(index))


def original_names(unet: Arrays, vae: Arrays, layers_per_block: int, vae_levels: int) -> dict[str, np.ndarray]:
    """UNet and VAE under the names of the original release, with the rest of such a file."""
    state = {}
    for name, array in unet.items():
        state[f"model.diffusion_model.{_unet_name(name, layers_per_block)}"] = array
    for name, array in vae.items():
        is_conv = re.search(r"attentions\.0\.to_\w+(\.0)?\.weight", name)
        state[f"first_stage_model.{_vae_name(name, vae_levels)}"] = array[:, :, None, None] if is_conv else array
    state["cond_stage_model.transformer.text_model.embeddings.position_ids"] = np.arange(4.0)
    state["model_ema.decay"] = np.array(0.999)
    state |= {name: np.ones(5) for name in ("betas", "alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "logvar")}
    return state


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def _unet_name(name: str, layers: int) -> str:
    stem, leaf = name.rsplit(".", 1)
    if stem in _UNET_ENDS:
        return f"{_UNET_ENDS[stem]}.{leaf}"
    if found := re.fullmatch(r"(down|up)_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.(.*)", stem):
        side, level, part, layer, rest = found[1], int(found[2]), found[3], int(found[4]), found[5]
        block = f"input_blocks.{1 + level * (layers + 1) + layer}" if side == "down" else None
        block = block or f"output_blocks.{level * (layers + 1) + layer}"
        return f"{block}.0.{_RESNET[rest]}.{leaf}" if part == "resnets" else f"{block}.1.{rest}.{leaf}"
    if found := re.fullmatch(r"down_blocks\.(\d+)\.downsamplers\.0\.conv", stem):
        return f"input_blocks.{(int(found[1]) + 1) * (layers + 1)}.0.op.{leaf}"
    if found := re.fullmatch(r"up_blocks\.(\d+)\.upsamplers\.0\.conv", stem):
        # After the resnet, and after the attention where the level has one; SD 1.5's first level has none.
        place = 1 if found[1] == "0" else 2
        return f"output_blocks.{int(found[1]) * (layers + 1) + layers}.{place}.conv.{leaf}"
    if found := re.fullmatch(r"mid_block\.resnets\.(\d)\.(.*)", stem):
        return f"middle_block.{2 * int(found[1])}.{_RESNET[found[2]]}.{leaf}"
    return f"middle_block.1.{stem.removeprefix('mid_block.attentions.0.')}.{leaf}"


def _vae_name(name: str, levels: int) -> str:
    name = name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda m: f"up.{levels - 1 - int(m[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0.group_norm", "mid.attn_1.norm")
    name = name.replace("mid_block.attentions.0.to_out.0", "mid.attn_1.proj_out")
    return re.sub(r"mid_block\.attentions\.0\.to_([qkv])", r"mid.attn_1.\1", name)


# --- CLIP ---


def openai_names(tower: Arrays) -> dict[str, np.ndarray]:
    """The visual tower as OpenAI's file has it, without alpha, with the rest of such a file."""
    width = tower["class_embedding"].shape[0]
    state = {
        "visual." + re.sub(r"\.in_proj\.(weight|bias)$", r".in_proj_\1", name): array
        for name, array in tower.items()
        if name != "conv1_alpha.weight"
    }
    state |= {f"visual.ln_post.{leaf}": np.ones(width) for leaf in ("weight", "bias")}
    state |= {"visual.proj": np.ones((width, 8)), "logit_scale": np.array(4.6), "text_projection": np.ones((6, 8))}
    state |= {"transformer.resblocks.0.attn.in_proj_weight": np.ones((18, 6)), "ln_final.weight": np.ones(6)}
    return state | {"positional_embedding": np.ones((5, 6)), "token_embedding.weight": np.ones((7, 6))}


class _Bag(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def write_torchscript(path: Path, arrays: Arrays, dtype: torch.dtype = torch.float16) -> None:
    """A TorchScript archive with these parameters and integer sizes, as OpenAI's ``ViT-L-14.pt`` is."""
    root = _Bag()
    for name, tensor in tensors(arrays, dtype).items():
        module = root
        *parents, leaf = name.split(".")
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, _Bag())
            module = module.get_submodule(parent)
        module.register_parameter(leaf, torch.nn.Parameter(tensor, requires_grad=False))
    root.register_buffer("input_resolution", torch.tensor(224))
    torch.jit.script(root).save(path)


def transformers_names(tower: Arrays, prefix: str = "vision_model.") -> dict[str, np.ndarray]:
    """The visual tower as ``transformers.CLIPModel`` names it, without alpha."""
    width = tower["class_embedding"].shape[0]
    state = {}
    for name, array in tower.items():
        if name == "conv1_alpha.weight":
            continue
        if found := re.fullmatch(r"transformer\.resblocks\.(\d+)\.attn\.in_proj\.(weight|bias)", name):
            for part, values in zip("qkv", np.split(array, 3), strict=True):
                state[f"{prefix}encoder.layers.{found[1]}.self_attn.{part}_proj.{found[2]}"] = values
            continue
        for ours, theirs in (
            ("class_embedding", "embeddings.class_embedding"),
            ("positional_embedding", "embeddings.position_embedding.weight"),
            ("conv1.", "embeddings.patch_embedding."),
            ("ln_pre.", "pre_layrnorm."),
            ("transformer.resblocks.", "encoder.layers."),
            (".attn.", ".self_attn."),
            (".ln_1.", ".layer_norm1."),
            (".ln_2.", ".layer_norm2."),
            (".c_fc.", ".fc1."),
            (".c_proj.", ".fc2."),
        ):
            name = name.replace(ours, theirs)  # noqa: PLW2901
        state[prefix + name] = array
    return state | {f"{prefix}post_layernorm.{leaf}": np.ones(width) for leaf in ("weight", "bias")}


# --- The paper ---


def write_deepspeed(path: Path, unet: Arrays, dtype: torch.dtype = torch.float32) -> None:
    """``mp_rank_00_model_states.pt`` as DeepSpeed writes it."""
    state = tensors(unet, dtype)
    shapes = [{name: tensor.shape for name, tensor in state.items()}]
    torch.save(
        {
            "module": state,
            "buffer_names": [],
            "optimizer": None,
            "param_shapes": shapes,
            "frozen_param_shapes": None,
            "lr_scheduler": None,
            "sparse_tensor_module_names": set(),
            "skipped_steps": 0,
            "global_steps": 160_000,
            "dp_world_size": 8,
            "ds_config": {"train_batch_size": 64, "bf16": {"enabled": True}},
            "ds_version": "0.12.6",
        },
        path,
    )
