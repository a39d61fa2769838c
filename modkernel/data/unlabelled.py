"""Examples without a label in a set that has labels: left out, or read where they are asked for."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from modkernel.data.class_names import listed
from modkernel.data.findings import Finding
from modkernel.data.pool import Pool, Unlabelled, take


def leave_out_unlabelled(pool: Pool, name: str | None) -> Pool:
    """The pool without the examples that have no label; their number is a finding.

    The ids of the others stay. Those of the training part are kept aside, for `pairs: views` and
    `spread_labels`. Where no example has a label, the set becomes one without labels.

    Args:
        pool: labels may be -1, for none.
        name: of a class that stands for no label, if there is one.
    """
    if pool.labels is None:
        return pool
    classes, labels = pool.classes, pool.labels
    if name in classes:
        number = classes.index(name)
        labels = torch.where(labels == number, -1, labels - (labels > number).long())
        classes = (*classes[:number], *classes[number + 1 :])
    kept = (labels >= 0).nonzero().flatten()
    count = len(labels) - len(kept)
    if not count:
        return pool if name is None else replace(pool, findings=(*pool.findings, _none(pool, name)))
    if not len(kept):
        text = (
            f"None of the {len(labels)} examples has a label: only 'pairs: views', or a file of "
            "pairs, can train hidden modules on them."
        )
        told = Finding(kind="unlabelled", text=text, count=count)
        return replace(pool, classes=(), labels=None, findings=(*pool.findings, told))
    place = torch.full((len(labels),), -1).index_put((kept,), torch.arange(len(kept)))
    text = (
        f"{count} of the {len(labels)} examples have no label"
        f"{'' if name is None else f' (or {name!r}, which stands for none)'}: they take no part in "
        "training, validation and testing, but by their views in hidden modules with 'pairs: "
        "views' or 'views+labels', and in output modules where 'spread_labels' or a file of labels "
        "gives them some."
    )
    alone = pool.train[labels[pool.train] < 0]
    aside = Unlabelled([pool.ids[i] for i in alone.tolist()], take(pool.examples, alone))
    return replace(
        pool,
        classes=classes,
        ids=[pool.ids[i] for i in kept.tolist()],
        labels=labels[kept],
        examples=take(pool.examples, kept),
        train=_moved(pool.train, place),
        validation=_some(pool.validation, place),
        test=_some(pool.test, place),
        findings=(*pool.findings, Finding(kind="unlabelled", text=text, count=count)),
        unlabelled=aside if len(alone) else None,
    )


def _none(pool: Pool, name: str) -> Finding:
    text = (
        f"No example has the label {name!r}, which dataset.unlabelled says stands for none; the "
        f"labels are {listed(pool.classes)}."
    )
    return Finding(kind="unlabelled", text=text, count=0)


def _moved(rows: Tensor, place: Tensor) -> Tensor:
    moved = place[rows]
    return moved[moved >= 0]


def _some(rows: Tensor | None, place: Tensor) -> Tensor | None:
    moved = None if rows is None else _moved(rows, place)
    return moved if moved is not None and len(moved) else None
