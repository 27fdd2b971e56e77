"""The paper's claims that docs/evidence.md tests: which figures of which variants speak for or against each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.evidence.figures import Count, Estimate, Figure, Results, miou

Row = tuple[str, list[Estimate]]
HOLDS, OPEN, FAILS, UNTESTED = "holds", "not decided", "does not hold", "cannot be tested here"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One sentence, and the gain that it says is positive.

    Attributes:
        says: the sentence.
        gain: by how much.
        claimed: whether the claim stands or falls with it; else it was measured on the way.
        testable: whether the better of both sides exceeds masks that need no network; a gain below them says nothing.
    """

    says: str
    gain: Estimate
    claimed: bool = True
    testable: bool = True

    @property
    def verdict(self) -> str:
        """By the interval of the gain."""
        if not self.testable:
            return UNTESTED
        if self.gain.half is None:
            return "one seed"
        return {1: HOLDS, 0: OPEN, -1: FAILS}[self.gain.sign]


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A table of figures, and what it says about a claim.

    Attributes:
        key: names its place in the page and its plot.
        columns: heads of the table, the first of the names of rows.
        rows: name and a figure a column.
        comparisons: all that are claimed must hold for the claim to hold.
        paper: the paper's figures by name of row, of another scale.
        paper_of: the model that they are of, where it is one.
        plotted: columns that the plot shows; none for the first that differs by seed.
        curve: rows are points along an axis of this name, for each column; "" where they are variants.
        painted: label -> variant whose pseudo masks are shown beside each other.
    """

    key: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    comparisons: Sequence[Comparison]
    paper: Mapping[str, str] = dataclasses.field(default_factory=dict)
    paper_of: str = ""
    plotted: tuple[str, ...] = ()
    curve: str = ""
    painted: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def saying(self, verdict: str) -> list[str]:
        """The claim's sentences with this verdict."""
        return [c.says for c in self.comparisons if c.claimed and c.verdict == verdict]

    @property
    def verdict(self) -> str:
        """Of the claim: what all its sentences do, "in part" where only some of them hold, or "no result yet"."""
        found = {comparison.verdict for comparison in self.comparisons if comparison.claimed}
        if not found:
            return "no result yet"
        if HOLDS in found:
            return HOLDS if len(found) == 1 else "in part"
        return next(verdict for verdict in (FAILS, OPEN, UNTESTED, "one seed") if verdict in found)


def prompt_swap(result: Mapping[str, Any]) -> float:
    """Percent of prompts that decide between two objects."""
    return 100 * float(result["report"]["prompt_swap"])


def _of_variants(results: Results, names: Mapping[str, str], figures: Sequence[Figure]) -> list[Row]:
    return [
        (label, [results.of(variant, figure) for figure in figures])
        for label, variant in names.items()
        if results.has(variant)
    ]


def _beats(
    results: Results, sentences: Sequence[tuple[str, str, str]], figure: Figure = miou, claimed: bool = True
) -> list[Comparison]:
    """(what it says, the lesser variant, the better one)."""
    return [Comparison(says, results.gain(a, b, figure), claimed) for says, a, b in sentences if results.has(a, b)]


_SCENES = ("variant", "mIoU, unseen classes", "mIoU, seen classes", "prompt swap, %")
_SCENES_FIGURES = (miou, partial(miou, name="seen"), prompt_swap)


def masking(results: Results) -> Evidence:
    """Claim 1."""
    names = {"both stages": "ldis1", "pre-masking alone": "ldis1_pre_mask", "post-masking alone": "ldis1_post_mask"}
    names["no masking"] = "ldis1_no_mask"
    sentences = (
        ("both beat pre-masking alone", "ldis1_pre_mask", "ldis1"),
        ("both beat post-masking alone", "ldis1_post_mask", "ldis1"),
        ("pre-masking alone beats none", "ldis1_no_mask", "ldis1_pre_mask"),
        ("post-masking alone beats none", "ldis1_no_mask", "ldis1_post_mask"),
    )
    paper = {"both stages": "52.6", "pre-masking alone": "43.8", "post-masking alone": "49.7"}
    rows = _of_variants(results, names, _SCENES_FIGURES)
    return Evidence("masking", _SCENES, rows, _beats(results, sentences), paper, "LDIS-n", painted=names)


def targets(results: Results) -> Evidence:
    """Claim 2."""
    names = {
        "augmented, g = 0.4": "ldisn",
        "augmented, g = 0.2": "ldisn_alpha20",
        "augmented, g = 0.6": "ldisn_alpha60",
        "vanilla, g = 0": "ldisn_vanilla",
        "perturbed": "ldisn_perturbed",
    }
    sentences = (
        ("augmented beats vanilla", "ldisn_vanilla", "ldisn"),
        ("augmented beats perturbed", "ldisn_perturbed", "ldisn"),
    )
    others = (
        ("perturbed beats vanilla", "ldisn_vanilla", "ldisn_perturbed"),
        ("g = 0.4 beats 0.2", "ldisn_alpha20", "ldisn"),
        ("g = 0.4 beats 0.6", "ldisn_alpha60", "ldisn"),
    )
    paper = {"augmented, g = 0.4": "49.7", "vanilla, g = 0": "39.4", "perturbed": "48.7"}
    rows = _of_variants(results, names, _SCENES_FIGURES)
    comparisons = _beats(results, sentences) + _beats(results, others, claimed=False)
    return Evidence("targets", _SCENES, rows, comparisons, paper, "LDIS-n", painted=names)


def architectures(results: Results) -> Evidence:
    """Claim 3, on painted scenes."""
    names = {"LDIS-1, latent loss": "ldis1", "LDIS-1, pixel loss": "ldis1_pixel"}
    names |= {"LDIS-n, v": "ldisn", "LDIS-n, noise": "ldisn_epsilon"}
    comparisons = []
    if results.has("ldisn", "ldis1"):
        comparisons.append(Comparison("LDIS-1 beats LDIS-n", results.contrast("ldisn", "ldis1", miou)))
    comparisons += _beats(results, [("latent loss beats pixel loss", "ldis1_pixel", "ldis1")])
    noise = [("regressing v beats regressing noise", "ldisn_epsilon", "ldisn")]
    comparisons += _beats(results, noise, claimed=False)
    paper = {"LDIS-1, latent loss": "62.6; beside the pixel loss 61.3", "LDIS-1, pixel loss": "55.6"}
    paper["LDIS-n, noise"] = "52.6"
    rows = _of_variants(results, names, _SCENES_FIGURES)
    return Evidence("architectures", _SCENES, rows, comparisons, paper, painted=names)


_SETS = {"images": "images", "objects": "video objects", "semantic": "video semantic"}
_ALL_SETS = _SETS | {"scenes": "painted scenes"}
_MIXTURE = ("variant", *_ALL_SETS.values())
_MIXTURE_FIGURES: tuple[Figure, ...] = tuple(partial(miou, name=name) for name in _ALL_SETS)


def _untrained(results: Results) -> dict[str, Mapping[str, Any]]:
    """As results: what all variants on real images start from, and the baselines that need no network."""
    for result in results.by_variant.get("joint", {}).values():
        report = result["report"]
        others = {"not fine-tuned": report["before"]}
        others |= {name.replace("_", " "): figures for name, figures in report["baselines"].items()}
        return {name: result | {"report": report | figures} for name, figures in others.items()}
    return {}


def _of_mixtures(results: Results, names: Mapping[str, str]) -> list[Row]:
    untrained = [
        (name, [Estimate((figure(result),)) for figure in _MIXTURE_FIGURES])
        for name, result in _untrained(results).items()
    ]
    return _of_variants(results, names, _MIXTURE_FIGURES) + untrained


def _testable(results: Results, variants: Sequence[str], figure: Figure) -> bool:
    trivial = [figure(result) for name, result in _untrained(results).items() if name != "not fine-tuned"]
    return max(results.of(variant, figure).mean for variant in variants) > max(trivial)


def _on_sets(
    results: Results, sentences: Iterable[tuple[str, str, str, str]], seeds_paired: bool, claimed: bool = True
) -> Iterator[Comparison]:
    """(what it says, the lesser variant, the better one, the set of its figures); painted scenes decide no claim."""
    for says, a, b, name in sentences:
        if results.has(a, b):
            figure = partial(miou, name=name)
            gain = results.gain(a, b, figure) if seeds_paired else results.contrast(a, b, figure)
            where, testable = _ALL_SETS[name], _testable(results, (a, b), figure)
            yield Comparison(f"{says}, on {where}", gain, claimed and name in _SETS, testable)


def lora(results: Results) -> Evidence:
    """Claim 3, LoRA, on real images."""
    names = {"everything trained": "joint"} | {f"LoRA, rank {r}": f"joint_lora{r}" for r in (16, 4, 1)}
    comparisons: list[Comparison] = []
    for says, worse, better in (
        ("everything beats rank 1", "joint_lora1", "joint"),
        ("everything beats rank 16", "joint_lora16", "joint"),
        ("rank 16 beats rank 1", "joint_lora1", "joint_lora16"),
    ):
        sentences = [(says, worse, better, name) for name in _ALL_SETS]
        comparisons += _on_sets(results, sentences, seeds_paired=True, claimed=not comparisons)
    paper = {"everything trained": "61.3", "LoRA, rank 1": "53.0"}
    rows = _of_mixtures(results, names)
    return Evidence("lora", _MIXTURE, rows, comparisons, paper, "LDIS-1", plotted=(*_SETS.values(),))


def joint_training(results: Results) -> Evidence:
    """Claim 6."""
    names = {"all three": "joint"} | {f"{label} alone": f"only_{name}" for name, label in _SETS.items()}
    sentences = [(f"joint beats {label} alone", f"only_{name}", "joint", name) for name, label in _SETS.items()]
    comparisons = [*_on_sets(results, sentences, seeds_paired=False)]
    rows = _of_mixtures(results, names)
    return Evidence("joint_training", _MIXTURE, rows, comparisons, plotted=(*_SETS.values(),))


def _shots(result: Mapping[str, Any], k: int) -> float:
    return float(result["shots"][str(k)]["miou"])


def prompts(results: Results) -> Evidence:
    """Claim 4."""
    names = {label: v for label, v in (("LDIS-1", "ldis1"), ("LDIS-n", "ldisn")) if results.has(v)}
    measured = [result["shots"] for v in names.values() for result in results.by_variant[v].values()]
    shots = [int(k) for k in measured[0]] if measured else []
    rows = [(str(k), [results.of(v, partial(_shots, k=k)) for v in names.values()]) for k in shots]
    comparisons = [
        # The paper's own figure falls from 5 to 20.
        Comparison(
            f"{label}: {b} prompts beat {a}", results.within(v, partial(_shots, k=a), partial(_shots, k=b)), a == 1
        )
        for label, v in names.items()
        for a, b in ((1, 5), (1, 20), (5, 20))
        if {a, b} <= set(shots)
    ]
    paper = {"1": "49.7", "3": "55.3", "5": "56.2", "10": "56.7", "20": "55.7"}
    return Evidence("prompts", ("prompts", *names), rows, comparisons, paper, "LDIS-n", curve="number of prompts")


def _sampled(result: Mapping[str, Any], options: Mapping[str, Any], figure: str = "miou") -> float:
    (row,) = [row for row in result["sampling"] if row["options"] == options]
    return float(row[figure])


def sampling(results: Results) -> Evidence:
    """Claim 5."""
    if not results.has("ldisn"):
        return Evidence("sampling", (), [], [])
    every = [row["options"] for row in next(iter(results.by_variant["ldisn"].values()))["sampling"]]
    figures = ("miou", "fb_iou", "masks")
    rows = [
        (
            ", ".join(map(_option, options.items())),
            [
                Count(results.of("ldisn", partial(_sampled, options=options, figure="evaluations")).values),
                *(results.of("ldisn", partial(_sampled, options=options, figure=f)) for f in figures),
                results.of("ldisn", lambda result, options=options: 50 * _sampled(result, options, "r")),
            ],
        )
        for options in every
    ]
    short = {"sampler": "ddim", "num_steps": 10}
    trailing = {"sampler": "ddim", "num_steps": 5, "timestep_spacing": "trailing"}
    pairs = (
        (False, "ddim with 20 steps beats 5", {**short, "num_steps": 5}, {**short, "num_steps": 20}),
        (False, "5 trailing steps beat 5 leading ones", {**short, "num_steps": 5}, trailing),
        (False, "ddpm beats ddim at 20 steps", {**short, "num_steps": 20}, {"sampler": "ddpm", "num_steps": 20}),
        (True, "guidance beats none", {**short, "guidance_start": 0.0, "guidance_end": 0.0}, short),
        (False, "scale 7 beats 1", {**short, "prompt_guidance_scale": 1.0}, {**short, "prompt_guidance_scale": 7.0}),
    )
    comparisons = [
        Comparison(
            says,
            results.within("ldisn", partial(_sampled, options=a), partial(_sampled, options=b)),
            claimed,
        )
        for claimed, says, a, b in pairs
        if a in every and b in every
    ]
    columns = ("options", "UNet evaluations", "mIoU", "FB-IoU", "same masks", "R differs")
    return Evidence("sampling", columns, rows, comparisons)


def _option(item: tuple[str, Any]) -> str:
    name, value = item
    return str(value) if name in ("sampler", "timestep_spacing") else f"{name} {value}"


def _painted(result: Mapping[str, Any], where: str, figure: str) -> float:
    return float(result["wrong_prompts"][where][figure])


def unseen(results: Results) -> Evidence:
    """Claim 7."""
    names = {label: v for label, v in (("LDIS-1", "ldis1"), ("LDIS-n", "ldisn")) if results.has(v)}
    figures = (
        miou,
        partial(miou, name="seen"),
        *(partial(_painted, where=where, figure=f) for where in ("present", "absent") for f in ("area", "empty")),
    )
    columns = (
        *("model", "mIoU, unseen classes", "mIoU, seen classes", "covered, %, right prompt", "empty, %, right prompt"),
        *("covered, %, wrong prompt", "empty, %, wrong prompt"),
    )
    rows = _of_variants(results, names, figures)
    comparisons = []
    for label, variant in names.items():
        empty = results.of(variant, lambda result: _painted(result, "absent", "empty") - 50.0)
        comparisons.append(Comparison(f"{label}: most masks of wrong prompts are empty", empty))
    return Evidence("unseen", columns, rows, comparisons, plotted=tuple(columns[i] for i in (3, 5)))


def _at(result: Mapping[str, Any], figure: str, threshold: float | None = None) -> float:
    """A figure at a threshold, by default the model's own, of the curve of :meth:`Probe.absence`."""
    found = result["absence"]
    return float(found["curve"][str(found["min_score"] if threshold is None else threshold)][figure])


def _of_scores(result: Mapping[str, Any], figure: str) -> float:
    return 100 * float(result["absence"][figure])


# How a row calls a variant.
SCORED = {
    "LDIS-1": "ldis1_scored",
    "LDIS-1, a tenth absent": "ldis1_absent",
    "LDIS-n": "ldisn_scored",
    "LDIS-n, a tenth absent": "ldisn_absent",
}


def absent(results: Results) -> Evidence:
    """Beyond the paper: episodes whose query does not show what is prompted, and scores."""
    empty, own_empty = partial(_at, figure="empty", threshold=0.0), partial(_at, figure="empty")
    all_masks, own = partial(_at, figure="miou", threshold=0.0), partial(_at, figure="miou")
    figures = (all_masks, empty, own, own_empty, *(partial(_of_scores, figure=name) for name in ("auroc", "ece")))
    columns = (
        *("trained as", "mIoU, every mask", "empty, %, every mask"),
        *("mIoU, threshold", "empty, %, threshold", "AUROC, %", "ECE, %"),
    )
    comparisons = []
    for label in ("LDIS-1", "LDIS-n"):
        without, trained = SCORED[label], SCORED[f"{label}, a tenth absent"]
        if results.has(without, trained):
            comparisons += [
                Comparison(
                    f"{label}: a tenth absent empties more of their masks", results.gain(without, trained, own_empty)
                ),
                Comparison(f"{label}: a tenth absent raises the AUROC", results.gain(without, trained, figures[4])),
                Comparison(f"{label}: a tenth absent costs no mIoU", results.gain(without, trained, all_masks)),
            ]
    rows = _of_variants(results, SCORED, figures)
    return Evidence("absent", columns, rows, comparisons, plotted=tuple(columns[i] for i in (3, 4)))


CLAIMS: Mapping[str, Callable[[Results], Evidence]] = {
    "1. Two-stage masking beats one stage, and one beats none": masking,
    "2. Augmented pseudo masks beat vanilla and perturbed ones for LDIS-n": targets,
    "3a. LDIS-1 beats LDIS-n at equal budget; the latent loss beats the pixel loss": architectures,
    "3b. Training everything beats LoRA of rank 1; larger ranks": lora,
    "4. More prompts help a model trained with one": prompts,
    "5. LDIS-n needs its guidance; steps and samplers": sampling,
    "6. Joint training on images and videos beats each alone": joint_training,
    "7. A wrong prompt gives an empty mask; unseen classes": unseen,
    "8. Beyond the paper: absent objects in training, and scores": absent,
}


def evidence(results: Results) -> Iterator[tuple[str, Evidence]]:
    """All claims with what there is about them."""
    for claim, collect in CLAIMS.items():
        yield claim, collect(results)
