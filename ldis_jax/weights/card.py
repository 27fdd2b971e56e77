"""The model card: ``README.md`` of a model folder, with the metadata that the Hugging Face hub reads."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import yaml

from ldis_jax.models.config import PromptEncoderConfig
from ldis_jax.models.ldis import ModelConfig
from ldis_jax.tasks import Task

CARD = "README.md"
UNKNOWN_LICENSE = "unknown"
PAINTED = "painted scenes"
_IN_WORDS = {"procedural": PAINTED, "folder": "own images"}  # of a source's kind; other data sets have names
# What others wrote is shown on terminals and on the web page.
_PLAIN = re.compile(r"[\w ,.;:()%'+-]{1,200}")
_METADATA = re.compile(r"\s*---[ \t]*\n(.*?)\n---[ \t]*(?:\n|$)", re.DOTALL)
_MOST_METADATA = 1 << 17  # characters
_TASK_NAMES = {"ldis1": "LDIS-1 (one step)", "ldisn": "LDIS-n (many steps)"}
_PUBLIC_LICENSES = (
    "A model made from public weights is bound by their terms: Stable Diffusion 1.5 is under CreativeML Open RAIL-M, "
    "Alpha-CLIP under Apache-2.0, OpenAI's CLIP and TAESD under MIT; chaoyangw/ldis states no terms for its weights."
)
_USAGE = """In JAX:

```python
from ldis_jax import LDISPipeline

pipe = LDISPipeline.from_pretrained("FOLDER")
mask = pipe("query.png", prompts=[("prompt.png", "prompt_mask.png")]).mask
```

In torch, through diffusers, which runs the two files of Python that lie in the folder:

```python
from diffusers import DiffusionPipeline
from PIL import Image

pipe = DiffusionPipeline.from_pretrained("FOLDER", custom_pipeline="FOLDER", trust_remote_code=True)
query, image, mask = map(Image.open, ("query.png", "prompt.png", "prompt_mask.png"))
mask = pipe(query, prompts=[(image, mask)]).mask
```"""


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where a model comes from.

    Attributes:
        license: the base weights', as the hub names it ("creativeml-openrail-m").
        base: what the weights were made from, in words or as a hub id.
        data: training data set -> the labels trained on, none for all; of every run since the UNet was drawn.
        steps: optimizer steps of the last run; None where this project did not train it, 0 where nobody did.
        batch_size: episodes a step.
        metrics: name -> value, in percent unless the name says otherwise.
        knows: what the UNet was trained on since it was drawn, in words; none where that is not recorded.
    """

    license: str = UNKNOWN_LICENSE
    base: tuple[str, ...] = ()
    data: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    steps: int | None = None
    batch_size: int | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    knows: tuple[str, ...] = ()

    @property
    def fails_on_photographs(self) -> bool:
        """True if nobody trained it for segmentation, or on painted scenes only."""
        return self.steps == 0 or self.knows == (PAINTED,)

    @property
    def statement(self) -> str:
        """The training data as "It knows ..." continues; empty where it is not recorded."""
        if self.steps == 0:
            return "nothing yet: a starting point for training, which segments nothing"
        return ", ".join(self.knows) + (" only; photographs need another model" if self.fails_on_photographs else "")

    def trained(
        self,
        sources: Mapping[str, Any],
        steps: int,
        batch_size: int | None,
        metrics: Mapping[str, float],
        *,
        new_unet: bool = False,
    ) -> Provenance:
        """The same base after training on ``config.data.sources``; a UNet drawn for it has seen nothing before."""
        before = dataclasses.replace(self, data={}, steps=0, knows=()) if new_unet else self
        if steps == 0:
            return dataclasses.replace(before, batch_size=batch_size, metrics=metrics)
        data, knows = dict(before.data), dict.fromkeys(before.knows)
        for name, source in sources.items():
            classes = {*source.get("classes", ())}
            both = classes and data.get(name, classes)
            data[name] = tuple(sorted(classes.union(both))) if both else ()
            if before.steps == 0 or before.knows:  # else it knows more than anybody wrote down
                knows[_IN_WORDS.get(source.get("kind"), name)] = None
        return dataclasses.replace(
            before, data=data, steps=steps, batch_size=batch_size, metrics=metrics, knows=tuple(knows)
        )


def model_card(task: Task, config: ModelConfig, provenance: Provenance | None = None) -> str:
    """The text of ``README.md``, metadata first."""
    from huggingface_hub import EvalResult, ModelCardData

    facts = provenance or Provenance()
    results = []
    for name, value in facts.metrics.items():
        data_set, _, metric = name.rpartition("/")
        data_set = data_set or "episodes"
        results.append(EvalResult("image-segmentation", data_set, data_set, metric, round(value, 4)))
    data = ModelCardData(
        library_name="ldis_jax",
        pipeline_tag="image-segmentation",
        license=facts.license,
        base_model=[base for base in facts.base if re.fullmatch(r"[\w.-]+/[\w.-]+", base)] or None,
        tags=["jax", "flax", "in-context-segmentation", "few-shot-segmentation", "diffusion", task.name],
        model_name=f"ldis_jax {task.name}" if results else None,
        eval_results=results or None,
        # Not keys of the hub's: files and data sets of ours have no hub id.
        base_weights=list(facts.base) or None,
        training_steps=facts.steps,
        training_sets={name: list(classes) for name, classes in facts.data.items()} or None,
        knows=list(facts.knows) or None,
    )
    encoder, vae = config.prompt_encoder, type(config.vae).class_name
    described = "EfficientNet-Lite0"
    if isinstance(encoder, PromptEncoderConfig):
        clip = "Alpha-CLIP" if encoder.alpha else "CLIP, no alpha"
        described = f"{clip}: ViT of {encoder.layers} layers, width {encoder.width}, patches of {encoder.patch_size}"
    fields = {name: value for name, value in task.to_dict().items() if name != "confidence"}
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {_TASK_NAMES[task.name]}, in-context segmentation",
        "Given a query image and prompt images with masks of one class, it predicts the query's mask of that class. "
        'Method: "Explore In-Context Segmentation via Latent Diffusion Models" (arXiv 2403.09616). Software: ldis_jax.',
        "## Model\n\n" + _table({**fields, "score": _score(task), "vae": vae, "prompt encoder": described}),
        "## Training\n\n" + _training(facts),
    ]
    if facts.metrics:
        sections.append("## Metrics\n\n" + _table({name: f"{value:.4g}" for name, value in facts.metrics.items()}))
    unsaid = " (their folder does not say)" if facts.license == UNKNOWN_LICENSE else ""
    sections += [
        f"## Licence\n\nBase weights: `{facts.license}`{unsaid}. {_PUBLIC_LICENSES}",
        f"## Use\n\n{_USAGE}",
    ]
    return "\n\n".join(sections) + "\n"


def read_provenance(card: str | None) -> Provenance:
    """Reads licence, base and training from the text of a card; unknown where it cannot be read."""
    found = _METADATA.match((card or "")[:_MOST_METADATA])
    try:
        data = yaml.safe_load(found[1]) if found else None
    except Exception:  # a card is text by anyone; none that we cannot read may stop anything
        data = None
    if not isinstance(data, dict):
        return Provenance()
    base, knows = data.get("base_weights") or data.get("base_model"), data.get("knows")
    return Provenance(
        license=license if isinstance(license := data.get("license"), str) else UNKNOWN_LICENSE,
        base=tuple(part for part in (base if isinstance(base, list) else [base]) if isinstance(part, str)),
        steps=steps if type(steps := data.get("training_steps")) is int else None,
        data=_training_sets(data.get("training_sets")),
        knows=tuple(knows) if isinstance(knows, list) and all(map(_is_plain, knows)) else (),
    )


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) and _PLAIN.fullmatch(value) is not None


def _training_sets(value: Any) -> dict[str, tuple[int, ...]]:
    """The training sets that :func:`model_card` wrote; none where the value is anything else."""
    if not isinstance(value, dict) or not all(isinstance(labels, list) for labels in value.values()):
        return {}
    return {str(name): tuple(label for label in labels if isinstance(label, int)) for name, labels in value.items()}


def _score(task: Task) -> str:
    """A line on the calibration of the score."""
    confidence = task.confidence
    if not confidence.is_calibrated:
        return "not calibrated"
    return (
        f"expected IoU, calibrated on {confidence.episodes} held-out episodes; below {confidence.min_score:.2f} a mask "
        "is empty"
    )


def _training(facts: Provenance) -> str:
    rows: dict[str, Any] = {"base weights": ", ".join(facts.base) or "not recorded"}
    if facts.steps == 0:
        return _table(rows) + "\n\n**Not trained for segmentation yet**: a starting point for training."
    sets = [f"{name} ({len(classes)} classes)" if classes else name for name, classes in facts.data.items()]
    rows["data"] = ", ".join(sets) or "not recorded"
    if facts.statement:
        rows["it knows"] = facts.statement
    rows["steps"] = "not recorded" if facts.steps is None else facts.steps
    if facts.batch_size is not None:
        rows["episodes a step"] = facts.batch_size
    return _table(rows)


def _table(rows: Mapping[str, Any]) -> str:
    cells = (f"| {key} | {value} |".replace("\n", " ") for key, value in rows.items())
    return "\n".join(["| | |", "|---|---|", *cells])
