"""EfficientNet-Lite0 in torch as a prompt encoder, for the folder ``prompt_encoder/`` of an LDIS model.

Written by ldis_jax (Apache-2.0); network: "EfficientNet" (ICML 2019), its Lite variant with batch norms folded in.
diffusers loads it with ``trust_remote_code=True``.
"""

import json
import os

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

# Blocks, kernel, stride, expansion and channels of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
FINE, LEVELS, SHARPNESS = 10, (112, 320), 20.0


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME"."""

    def forward(self, x):
        """[B, C, H, W] -> [B, C', H / stride, W / stride]."""
        size, stride = self.kernel_size[0], self.stride[0]
        pads = [max((-(-n // stride) - 1) * stride + size - n, 0) for n in (x.shape[3], x.shape[2])]
        return super().forward(F.pad(x, [side for p in pads for side in (p // 2, p - p // 2)]))


class InvertedResidual(nn.Module):
    """Expansion, a depthwise convolution, projection."""

    def __init__(self, c_in, kernel, stride, expand, c_out):
        super().__init__()
        wide = c_in * expand
        self.expand_conv = nn.Conv2d(c_in, wide, 1) if expand > 1 else None
        self.depthwise_conv = SameConv2d(wide, wide, kernel, stride, groups=wide)
        self.project_conv = nn.Conv2d(wide, c_out, 1)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x):
        """[B, C, H, W] -> [B, C', H / stride, W / stride]."""
        h = x if self.expand_conv is None else F.relu6(self.expand_conv(x))
        h = self.project_conv(F.relu6(self.depthwise_conv(h)))
        return h + x if self.residual else h


class EfficientNetLite0(nn.Module):
    """An image and where to look, [B, 3, P, P] and [B, 1, P, P] -> tokens, [B, L, D]."""

    def __init__(self, image_size=256):
        super().__init__()
        self.image_size, self.grid = image_size, image_size // 16
        self.conv_stem = SameConv2d(3, 32, 3, 2)
        blocks, channels = [], 32
        for count, kernel, stride, expand, c_out in STAGES:
            for i in range(count):
                blocks.append(InvertedResidual(channels, kernel, stride if i == 0 else 1, expand, c_out))
                channels = c_out
        self.blocks = nn.ModuleList(blocks)

    @property
    def dtype(self):
        """The dtype of the parameters."""
        return self.conv_stem.weight.dtype

    @property
    def device(self):
        """The device of the parameters."""
        return self.conv_stem.weight.device

    @classmethod
    def from_pretrained(cls, folder, torch_dtype=None, **_):
        """Reads ``config.json`` and ``model.safetensors`` of a folder."""
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
            encoder = cls(json.load(file)["image_size"])
        encoder.load_state_dict(load_file(os.path.join(folder, "model.safetensors")))
        return encoder.to(torch_dtype).eval()

    def forward(self, image, alpha):
        """See the class; ``alpha`` is normalised."""
        x = F.relu6(self.conv_stem(image * (127.5 / 128) + 0.5 / 128))
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i == FINE:
                fine = x
        coarse = F.interpolate(x, (self.grid, self.grid), mode="bilinear", align_corners=False)
        tokens = torch.cat([_normalise(fine, 1), _normalise(coarse, 1), F.avg_pool2d(alpha, 16)], dim=1)
        return tokens.flatten(2).transpose(1, 2)

    def describe_query(self, image, prompt_tokens):
        """The features of a query that the UNet sees beside its latents, [B, C, g, g]."""
        tokens = self(image, torch.zeros_like(image[:, :1]))
        share = (prompt_tokens[..., -1] * 0.26 + 0.5).clamp(0, 1)
        logs = [torch.log(share + 1e-6), torch.log(1 - share + 1e-6)]
        sizes = [torch.logsumexp(log, dim=-1, keepdim=True) for log in logs]
        found = []
        fine, coarse = LEVELS
        for first, last in ((0, fine), (fine, fine + coarse), (0, fine + coarse)):
            a, b = (_normalise(x[..., first:last], -1) for x in (tokens, prompt_tokens))
            cosine = a @ b.transpose(1, 2) * (SHARPNESS / (last - first))
            of_object, of_rest = (
                torch.logsumexp(cosine + log[:, None], dim=-1) - 0.5 * size
                for log, size in zip(logs, sizes, strict=True)
            )
            found += [of_object - of_rest, (of_object - 0.5 * sizes[0]) / (0.25 * SHARPNESS)]
        described = torch.cat([tokens, torch.stack(found, dim=-1)], dim=-1)
        return described.transpose(1, 2).unflatten(2, (self.grid, self.grid))


def _normalise(x, dim):
    """Mean square 1 over channels."""
    return x * torch.rsqrt(x.square().mean(dim, keepdim=True) + 1e-6)
