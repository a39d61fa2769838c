"""How many labels a network saw in all: those of its output module, and what is below it saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modkernel.spec import DatasetFacts, ModuleSpec

NONE = "none"
"""What hidden modules saw that were trained without any label."""


def labels_told(labels: int, hidden_saw: str | None, spread_over: int = 0) -> str:
    """What a number of labels stands for, in words; the one form of it.

    >>> labels_told(10, NONE)
    '10 labels in all (hidden modules saw none)'
    >>> labels_told(10, "the pairs of 45,000 labels")
    '10 labels for the output module; hidden modules saw the pairs of 45,000 labels'
    >>> labels_told(10, NONE, 19_990)
    '10 labels in all, spread over 19,990 examples (hidden modules saw none)'

    Args:
        labels: of the output module.
        hidden_saw: as `hidden_saw` gives it; none where that was not recorded.
        spread_over: examples without a label that they were spread over.
    """
    count = f"{labels:,} label{'s' * (labels != 1)}"
    spread = f", spread over {spread_over:,} examples" if spread_over else ""
    if hidden_saw == NONE:
        return f"{count} in all{spread} (hidden modules saw none)"
    if hidden_saw is None:
        return f"{count} for the output module{spread}"
    return f"{count} for the output module{spread}; hidden modules saw {hidden_saw}"


def hidden_saw(
    chain: Sequence[ModuleSpec], fingerprint: str, labels: int | None, weighed: bool = False
) -> str:
    """What labels the hidden modules below an output module saw; `NONE` for none.

    Args:
        chain: specs of all modules below.
        fingerprint: of the data that the output module is trained on.
        labels: how many of its training examples have one; none where that is not known.
        weighed: whether held-out labels chose the weights of modules side by side.
    """
    found = list(dict.fromkeys(part for spec in chain for part in _seen(spec, fingerprint, labels)))
    if weighed:
        found.append("the held-out labels that chose their weights")
    return " and ".join(found) or NONE


def _seen(spec: ModuleSpec, fingerprint: str, labels: int | None) -> Iterator[str]:
    if spec.kind == "stitch":  # Its map is fitted without labels.
        yield from _seen(spec.upper, fingerprint, labels)
    elif spec.kind == "imported":
        yield "what they were trained on elsewhere"
    elif spec.kind == "hidden":
        if spec.hidden.start_from is not None:
            yield f"what {spec.source or 'the module that they start from'} had seen"
        if spec.dataset.saw_labels:
            yield _pairs(spec.dataset, fingerprint, labels)


def _pairs(facts: DatasetFacts, fingerprint: str, labels: int | None) -> str:
    if facts.pairs_fingerprint is not None:
        return f"a list of pairs of {facts.name}"
    if facts.fingerprint != fingerprint:
        return f"the pairs of labels of other data, or another choice of these ({facts.name})"
    return "the pairs of all labels" if labels is None else f"the pairs of {labels:,} labels"
