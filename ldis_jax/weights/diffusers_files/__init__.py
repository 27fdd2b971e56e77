"""Files that make every model folder a diffusers pipeline in torch; ldis_jax itself imports none of them.

``DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)`` reads
``model_index.json``, and imports ``pipeline.py`` and the module in ``prompt_encoder/``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ldis_jax.models.config import EfficientNetConfig, PromptEncoderConfig
from ldis_jax.models.ldis import ModelConfig
from ldis_jax.support.files import write_json
from ldis_jax.tasks import Task

INDEX, PIPELINE = "model_index.json", "pipeline.py"
# Of a config -> module and class of its network in torch.
_ENCODERS = {
    PromptEncoderConfig: ("alpha_clip", "AlphaCLIP"),
    EfficientNetConfig: ("efficientnet", "EfficientNetLite0"),
}


def write_diffusers_files(folder: Path, task: Task, config: ModelConfig) -> None:
    """Writes them beside the networks of a model folder."""
    here, encoder = Path(__file__).parent, _ENCODERS[type(config.prompt_encoder)]
    index = {
        "_class_name": ["pipeline", "LDISPipeline"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", type(config.vae).class_name],
        "prompt_encoder": list(encoder),
        "scheduler": ["diffusers", "DDPMScheduler"],
        "ldis": task.to_dict(),
    }
    write_json(folder / INDEX, index)
    shutil.copyfile(here / PIPELINE, folder / PIPELINE)
    (folder / "prompt_encoder").mkdir(exist_ok=True)
    shutil.copyfile(here / f"{encoder[0]}.py", folder / "prompt_encoder" / f"{encoder[0]}.py")
