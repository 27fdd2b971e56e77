"""Episodes from disk to host memory: numpy, OpenCV and Grain, never a device."""

from ldis_jax.input_pipeline.episodes import (
    BadFileError,
    Episode,
    EpisodeRecord,
    EpisodeSource,
    TrainEpisodes,
    episode_rng,
    episodes_hash,
    network_arrays,
    read_manifest,
)
from ldis_jax.input_pipeline.frozen import FrozenEpisodes, swap_pairs
from ldis_jax.input_pipeline.indexed_source import IndexedSource
from ldis_jax.input_pipeline.loader import TrainLoader, make_train_loader
from ldis_jax.input_pipeline.mixture import MixtureSource
from ldis_jax.input_pipeline.picture_folder import PictureFolder
from ldis_jax.input_pipeline.procedural import ProceduralScenes
from ldis_jax.input_pipeline.record_source import RecordSource
from ldis_jax.input_pipeline.sources import make_source
from ldis_jax.input_pipeline.transforms import (
    eval_image,
    eval_mask,
    eval_transform,
    fitted_size,
    restore_size,
    train_transform,
)
from ldis_jax.input_pipeline.voc_folder import VOCFolder

__all__ = [
    "BadFileError",
    "Episode",
    "EpisodeRecord",
    "EpisodeSource",
    "FrozenEpisodes",
    "IndexedSource",
    "MixtureSource",
    "PictureFolder",
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
    "fitted_size",
    "make_source",
    "make_train_loader",
    "network_arrays",
    "read_manifest",
    "restore_size",
    "swap_pairs",
    "train_transform",
]
