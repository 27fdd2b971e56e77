"""A model folder made of what others publish: Stable Diffusion, a prompt encoder, the paper's trained UNet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ldis_jax.models.config import VAEConfig
from ldis_jax.models.ldis import ModelConfig
from ldis_jax.tasks import Task, task_from_dict
from ldis_jax.weights.card import Provenance, model_card, read_provenance
from ldis_jax.weights.clip import open_prompt_encoder
from ldis_jax.weights.ldis_checkpoint import open_ldis_checkpoint
from ldis_jax.weights.model_folder import open_weights, read_card, read_vae_config, with_schedule, write_folder
from ldis_jax.weights.stable_diffusion import adapt_unet, open_stable_diffusion
from ldis_jax.weights.tensors import Weights


class Sources(NamedTuple):
    """Files and folders of this machine.

    Attributes:
        sd15: Stable Diffusion 1.5, as of :func:`~ldis_jax.weights.stable_diffusion.open_stable_diffusion`; with
            ``ldis`` its UNet's weights may be missing.
        alpha_clip, clip: as of :func:`~ldis_jax.weights.clip.open_prompt_encoder`.
        ldis: the paper's trained UNet.
        vae: another autoencoder's folder.
    """

    sd15: Path
    alpha_clip: Path | None = None
    clip: Path | None = None
    ldis: Path | None = None
    vae: Path | None = None


def assemble(
    out: Path,
    task_name: str | None,
    sources: Sources,
    origins: Sequence[str],
    *,
    variant: str | None = None,
    sd15_config: Path | None = None,
    zero_alpha: bool = False,
    seed: int = 0,
    dtype: str | None = "float32",
) -> Task:
    """Writes a model folder and returns its task.

    Args:
        out: the folder, replaced where it is a model folder.
        task_name: "ldis1" or "ldisn"; None where ``sources.ldis`` tells.
        sources: what it is made of.
        origins: where that comes from, for the card.
        variant: of Stable Diffusion's weight files.
        sd15_config: of a single file that is not Stable Diffusion 1.5's.
        zero_alpha: give plain CLIP an alpha convolution of zeros.
        seed: of the adapter that Stable Diffusion lacks.
        dtype: of the written weights; None keeps each tensor's own.

    Raises:
        LDISError: a file that is not what it should be, or that does not fit the others.
    """
    base = open_stable_diffusion(sources.sd15, variant, sd15_config, with_unet=sources.ldis is None)
    encoder, prompt_encoder = open_prompt_encoder(sources.clip, sources.alpha_clip, zero_alpha=zero_alpha)
    vae_config, vae = (base.vae_config, base.vae) if sources.vae is None else open_vae(sources.vae)
    name, unet = task_name, base.unet
    if sources.ldis is not None:
        name, unet = open_ldis_checkpoint(sources.ldis, task_name)
    # What plain CLIP cannot do is left out of the masking.
    task = task_from_dict({"task": name, "masking": "both" if encoder.alpha else "post"})
    task = with_schedule(task, base.schedule)
    unet_config, unet = adapt_unet(base.unet_config, unet, task, encoder, seed)
    config = ModelConfig(unet_config, vae_config, encoder)
    provenance = Provenance(
        license=read_provenance(read_card(sources.sd15)).license,
        base=tuple(origins),
        steps=0 if sources.ldis is None else None,
    )
    networks = {"unet": unet, "vae": vae, "prompt_encoder": prompt_encoder}
    write_folder(out, task, config, networks, model_card(task, config, provenance), dtype)
    return task


def open_vae(folder: Path) -> tuple[VAEConfig, Weights]:
    """``vae/`` of a folder, or the folder itself."""
    folder = folder / "vae" if (folder / "vae").is_dir() else folder
    return read_vae_config(folder), open_weights(folder, "vae")
