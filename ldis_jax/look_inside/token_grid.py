"""Instruction tokens laid out over the prompts they come from (paper eq. 1)."""

from __future__ import annotations

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class TokenGrid:
    """The instruction tokens of K prompts, G x G each.

    Attributes:
        images: uint8 [K, S, S, 3], the prompts as the network sees them: long side S, padded right and below.
        tokens: float32 [K, G, G, D], of the prompt encoder.
        on_object: bool [K, G, G], the tokens that post-masking leaves to be attended to.
    """

    images: np.ndarray
    tokens: np.ndarray
    on_object: np.ndarray

    def similarity(self) -> np.ndarray:
        """Cosine of every token with the mean token of the object: float32 [K, G, G] in [-1, 1].

        Where masking leaves no token, the mean is of all.
        """
        chosen = self.on_object if self.on_object.any() else np.ones_like(self.on_object)
        mean = self.tokens[chosen].mean(axis=0)
        norms = np.linalg.norm(self.tokens, axis=-1) * np.linalg.norm(mean)
        return self.tokens @ mean / np.maximum(norms, np.finfo(np.float32).tiny)

    def principal_components(self) -> np.ndarray:
        """The first three principal components of all tokens: float32 [K, G, G, 3], each spread over [0, 1].

        Alike colours are alike tokens; the colours themselves mean nothing. A component that is constant is 0.5.
        """
        flat = self.tokens.reshape(-1, self.tokens.shape[-1])
        centred = flat - flat.mean(axis=0)
        axes = np.linalg.svd(centred, full_matrices=False)[2][:3]
        # A component's sign is arbitrary: its largest entry is made positive.
        axes *= np.sign(np.take_along_axis(axes, np.abs(axes).argmax(axis=1)[:, None], axis=1))
        found = centred @ axes.T
        low, span = found.min(axis=0), np.ptp(found, axis=0)
        constant = span <= 1e-6 * np.abs(flat).max()
        spread = np.full((len(flat), 3), 0.5, np.float32)
        spread[:, : len(axes)] = np.where(constant, 0.5, (found - low) / np.where(constant, 1.0, span))
        return spread.reshape(*self.tokens.shape[:-1], 3)
