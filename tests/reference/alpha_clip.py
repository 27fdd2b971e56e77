"""Alpha-CLIP's visual tower in torch, under the names of its public state dict."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        # [3, B, N, S, D]
        q, k, v = self.in_proj(x).reshape(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]), dim=-1)
        return self.out_proj((weights @ v).transpose(1, 2).reshape(batch, length, width))


class _MLP(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.c_fc(x)
        return self.c_proj(x / (1 + torch.exp(-1.702 * x)))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = _Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = _MLP(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class _Transformer(nn.Module):
    def __init__(self, width: int, heads: int, layers: int):
        super().__init__()
        self.resblocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))


class AlphaCLIP(nn.Module):
    """[B, 3, P, P] and [B, 1, P, P] -> [B, L, width]: the last block's tokens, class token dropped."""

    def __init__(self, image_size: int, patch_size: int, width: int, layers: int, heads: int, alpha: bool):
        super().__init__()
        self.image_size, self.grid = image_size, image_size // patch_size
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        if alpha:
            self.conv1_alpha = nn.Conv2d(1, width, patch_size, patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(self.grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = _Transformer(width, heads, layers)

    @classmethod
    def from_folder(cls, folder: Path) -> AlphaCLIP:
        """Reads ``prompt_encoder/`` of a model folder."""
        tower = cls(**json.loads((folder / "config.json").read_text()))
        tower.load_state_dict(load_file(folder / "model.safetensors"))
        return tower.eval()

    def forward(self, image: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        x = self.conv1(image)
        if hasattr(self, "conv1_alpha"):
            x = x + self.conv1_alpha(alpha)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.class_embedding.expand(x.shape[0], 1, -1), x], dim=1) + self.positional_embedding
        return self.transformer.resblocks(self.ln_pre(x))[:, 1:]
