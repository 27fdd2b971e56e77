"""Paints the images of examples/: a query and a prompt with its mask, of a class that the shipped model never saw.

python tools/example_pictures.py
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ldis_jax.input_pipeline import ProceduralScenes, episode_rng  # noqa: E402
from ldis_jax.media.images import write_png  # noqa: E402

_SIDE, _SCENE = 128, (0, 0)  # pixels; (seed, index), chosen for being easily read


def main() -> None:
    """Writes three images."""
    episode = ProceduralScenes("unseen", image_size=_SIDE).draw(episode_rng(*_SCENE), num_shots=1)
    images = {
        "query": episode.query_image,
        "prompt": episode.prompt_images[0],
        "prompt_mask": episode.prompt_masks[0],
    }
    for name, image in images.items():
        write_png(ROOT / "examples" / f"{name}.png", image > 0 if name == "prompt_mask" else image)


if __name__ == "__main__":
    main()
