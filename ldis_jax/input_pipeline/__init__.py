"""Episodes from disk to host memory: numpy, OpenCV and Grain, never a device."""

from ldis_jax.input_pipeline.episodes import (
    Episode,
    EpisodeRecord,
    TrainEpisodes,
    episode_rng,
    episodes_hash,
    network_arrays,
    prompt_arrays,
    read_manifest,
)
from ldis_jax.input_pipeline.frozen import FrozenEpisodes
from ldis_jax.input_pipeline.image_folder import ImageFolder
from ldis_jax.input_pipeline.indexed_source import IndexedSource
from ldis_jax.input_pipeline.loader import TrainLoader
from ldis_jax.input_pipeline.procedural import ProceduralScenes
from ldis_jax.input_pipeline.record_source import RecordSource
from ldis_jax.input_pipeline.sources import make_source
from ldis_jax.input_pipeline.transforms import eval_image, eval_mask, eval_transform, restore_size
from ldis_jax.input_pipeline.voc_folder import VOCFolder

__all__ = [
    "Episode",
    "EpisodeRecord",
    "FrozenEpisodes",
    "ImageFolder",
    "IndexedSource",
    "ProceduralScenes",
    "RecordSource",
    "TrainEpisodes",
    "TrainLoader",
    "VOCFolder",
    "episode_rng",
    "episodes_hash",
    "eval_image",
    "eval_mask",
    "eval_transform",
    "make_source",
    "network_arrays",
    "prompt_arrays",
    "read_manifest",
    "restore_size",
]
