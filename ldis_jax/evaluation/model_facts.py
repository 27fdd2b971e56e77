"""What a report says about the model it measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def domain(training_sets: Mapping[str, Sequence[int]], data: str, classes: Sequence[int]) -> str:
    """Whether the tested classes were in training, from what the model card records.

    Args:
        training_sets: data set -> labels trained on; no labels means all.
        data: the data set that is tested.
        classes: labels that are tested; none means all.

    Returns:
        "in-domain: ...", "strict: ..." (same data set, other classes), "out-of-domain: ..." or "unknown: ...".
    """
    if not training_sets:
        return "unknown: the model card names no training data"
    if data not in training_sets:
        return f"out-of-domain: trained on {', '.join(training_sets)}"
    trained = set(training_sets[data])
    seen = [label for label in classes if not trained or label in trained]
    if classes and not seen:
        return f"strict: trained on {data}, on none of the {len(classes)} tested classes"
    if not classes or len(seen) == len(classes):
        return f"in-domain: trained on {data} and its tested classes"
    return f"in-domain: trained on {data} and on {len(seen)} of the {len(classes)} tested classes"
