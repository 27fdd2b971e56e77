"""Alpha-CLIP's image encoder in torch, for the folder ``prompt_encoder/`` of an LDIS model.

Written by ldis_jax (Apache-2.0); method: arXiv 2403.09616. diffusers loads it with ``trust_remote_code=True``.
"""

import json
import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn


class Attention(nn.Module):
    """Self-attention with CLIP's joint projection of queries, keys and values."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x):
        """[B, N, D] -> [B, N, D]."""
        q, k, v = self.in_proj(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two layers about CLIP's fast GELU."""

    def __init__(self, width):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x):
        """[B, N, D] -> [B, N, D]."""
        x = self.c_fc(x)
        return self.c_proj(x * torch.sigmoid(1.702 * x))


class Block(nn.Module):
    """A residual block of the transformer."""

    def __init__(self, width, heads):
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width), Attention(width, heads)
        self.ln_2, self.mlp = nn.LayerNorm(width), MLP(width)

    def forward(self, x):
        """[B, N, D] -> [B, N, D]."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class AlphaCLIP(nn.Module):
    """An image and where to look, [B, 3, P, P] and [B, 1, P, P] -> tokens of the last block, [B, L, D]."""

    def __init__(self, image_size, patch_size, width, layers, heads, alpha=True):
        super().__init__()
        self.sizes = {
            "image_size": image_size, "patch_size": patch_size, "width": width, "layers": layers, "heads": heads,
            "alpha": alpha,
        }  # fmt: skip
        self.image_size, self.grid = image_size, image_size // patch_size
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        self.conv1_alpha = nn.Conv2d(1, width, patch_size, patch_size, bias=False) if alpha else None
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(self.grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = nn.Module()
        self.transformer.resblocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))

    @property
    def dtype(self):
        """The dtype of the parameters."""
        return self.class_embedding.dtype

    @property
    def device(self):
        """The device of the parameters."""
        return self.class_embedding.device

    @classmethod
    def from_pretrained(cls, folder, torch_dtype=None, **_):
        """Reads ``config.json`` and ``model.safetensors`` of a folder."""
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            values = json.load(file)
        encoder = cls(**{name: value for name, value in values.items() if not name.startswith("_")})
        encoder.load_state_dict(load_file(os.path.join(folder, "model.safetensors")))
        return encoder.to(torch_dtype).eval()

    def save_pretrained(self, folder, **_):
        """Writes what :meth:`from_pretrained` reads."""
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "config.json"), "w", encoding="utf-8") as file:
            json.dump(self.sizes, file)
        save_file(self.state_dict(), os.path.join(folder, "model.safetensors"), {"format": "pt"})

    def forward(self, image, alpha):
        """See the class; ``alpha`` is normalised, and has no effect on plain CLIP."""
        x = self.conv1(image)
        if self.conv1_alpha is not None:
            x = x + self.conv1_alpha(alpha)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], dim=1) + self.positional_embedding
        return self.transformer.resblocks(self.ln_pre(x))[:, 1:]
