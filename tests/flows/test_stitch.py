"""The flow that stitches stored modules: what it stores, refuses, resumes, and what uses it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from modkernel.data import load_dataset
from modkernel.errors import InterfaceError, NotFoundError, SpecError, StitchError
from modkernel.flows.compose_network import compose_network
from modkernel.flows.display.lineage import lineage_svg
from modkernel.flows.plans import datasets
from modkernel.flows.retrain_network import retrain_network
from modkernel.flows.runtime.events import EpochDone, Event, Note, watch
from modkernel.flows.stored_modules.stitch_modules import stitch_modules
from modkernel.flows.tasks.seen import trained_on
from modkernel.flows.train_module import train_module
from modkernel.modules.stored import build_module
from modkernel.registry import Catalogue, ModuleRecord, Registry
from modkernel.reuse.task import parse_task
from modkernel.spec import DatasetSpec, OutputSpec, Recipe, StitchSpec
from tests.flows.helpers.specs import hidden, tiny
from tests.flows.helpers.trained import store_modules, store_network

FEW = StitchSpec(
    examples=200,
    recipe=Recipe(epochs=3, batch_size=64, optimizer="adam", learning_rate=3e-3, weight_decay=0.0),
)


def parents(registry: Registry, epochs: int) -> Sequence[tuple[ModuleRecord, ...]]:
    """Two networks' hidden modules: one of 30 epochs at its start, and one of another seed."""
    return [
        store_network(registry, tiny(name, epochs=some, seed=seed).changed(output=None))
        for name, some, seed in (("a", (30, 1), 0), ("b", (epochs, epochs), 1))
    ]


def card(registry: Registry, record: ModuleRecord) -> str:
    version = registry.backends.client.get_model_version(record.name, str(record.version))
    return str(version.description)


def test_a_stitch_is_stored_once_and_is_a_module_like_any_other(registry: Registry) -> None:
    (lower, _), (_, upper) = parents(registry, 8)
    made = stitch_modules("s", lower.id, upper.id, stitch=FEW, force=True)
    assert (made.kind, made.reused, made.name) == ("stitch", False, "s")
    assert made.stitch is not None
    assert made.stitch.labels_per_class == 10
    again = stitch_modules("s", lower.id, upper.id, stitch=FEW)
    assert (again.id, again.reused, again.stitch) == (made.id, True, made.stitch)
    events: list[Event] = []
    with watch(events.append):
        assert stitch_modules("other", lower.id, upper.id, stitch=FEW).name == "s"
    told = [event.text for event in events if isinstance(event, Note)]
    assert told[0] == "It was stored before, as s/1: the name 'other' was not used."

    record, copied = registry.modules.resolve("s"), registry.modules.resolve(upper.id)
    assert [one.id for one in registry.modules.chain(record)] == [lower.id, made.id]
    assert registry.moments.has(record, record.spec.dataset.fingerprint)
    built = build_module(registry.modules.fetch(record))
    copy = build_module(registry.modules.fetch(copied))
    kept = built.state_dict()
    assert all(bool((kept[f"upper.{key}"] == t).all()) for key, t in copy.state_dict().items())

    # Lineage, both ways.
    link = "#/models/{}/versions/1"
    assert f"It has a copy of module `{copied.short_id}`: [b.hidden-2" in card(registry, record)
    assert link.format("a.hidden-1") in card(registry, record)
    assert "With 10 labels per class" in card(registry, record)
    assert "Stitches that have a copy of it: [s version 1]" in card(registry, copied)
    catalogue = Catalogue(registry.settings, registry.backends.database)
    assert [one.id for one in catalogue.copies(copied)] == [made.id]
    assert "· stitch" in lineage_svg([*registry.modules.chain(record)], [], {})

    # What stands on it.
    network = compose_network("n", "s", output=OutputSpec(method="ridge", labels_per_class=5))
    assert [one.id for one in network.modules[:2]] == [lower.id, made.id]
    assert network.evaluation is not None
    data = datasets.describe(registry, DatasetSpec())
    advice = registry.advice.rank(parse_task("3, 5"), data)
    assert record.id in [one.module.id for one in advice.ranked]
    with pytest.raises(SpecError, match="is a stitch, which is not trained again"):
        retrain_network("n", "2", name="m")
    assert train_module("t", hidden(), upstream="s", backbone=tiny().backbone).kind == "hidden"

    # It needs the module that it has a copy of no more.
    registry.delete_network(registry.networks.resolve("b"))
    registry.delete_module(copied)
    assert "`: which is no longer stored." in card(registry, record)
    assert registry.networks.load(registry.networks.resolve("n")).classes is not None


def test_examples_that_a_parent_was_trained_on_judge_no_stitch(
    registry: Registry, tmp_path: Path
) -> None:
    here, there = DatasetSpec(), DatasetSpec(split_seed=1)
    where = registry.settings.places
    data = load_dataset(here, where)
    listed, part = tmp_path / "pairs.csv", data.training_part()
    by_class = [
        [str(i) for i, y in zip(part.ids, part.labels, strict=True) if y == c] for c in (3, 8)
    ]
    rows = [f"{a},{b},1" for ids in by_class for a, b in pairwise(ids)]
    rows += [f"{a},{b},0" for a, b in zip(*by_class, strict=False)]
    listed.write_text("\n".join(rows))
    bare = tiny("on", epochs=(1,)).changed(output=None)
    ((own,), (elsewhere,)) = (
        store_modules(registry, bare.changed(name=name, dataset=dataset))
        for name, dataset in (("own", here), ("elsewhere", there))
    )
    of_pairs = store_modules(
        registry, tiny("pairs", seed=1).changed(output=None, pairs=str(listed))
    )
    facts = own.spec.dataset
    count = len(data.validation)
    assert trained_on(registry, [own], here, facts.fingerprint) == ()
    other = load_dataset(there, where).train.digests
    expected = np.isin(data.validation.digests, other).nonzero()[0].tolist()
    assert 0 < len(expected) < count
    notes: list[Event] = []
    with watch(notes.append):
        found = trained_on(registry, [own, elsewhere], here, facts.fingerprint)
    assert list(found) == expected
    assert any(
        isinstance(one, Note) and f"{len(expected)} of the {count}" in one.text for one in notes
    )
    with pytest.raises(StitchError, match=r"to judge it by that no module was trained on.*--force"):
        stitch_modules("s", own.id, of_pairs[-1].id, stitch=FEW)


@pytest.mark.long
def test_refusals_leave_nothing_and_a_killed_fit_goes_on(registry: Registry) -> None:
    (lower, _), (below, upper) = parents(registry, 1)
    output = compose_network("n", lower.id).modules[-1]
    for under, over, says in (
        (lower, below, "stands on the data itself"),
        (below, upper, "is its own upstream"),
        (upper, upper, "is the same module"),
        (output, upper, "is an output module"),
        (lower, output, "is an output module"),
    ):
        with pytest.raises(InterfaceError, match=says):
            stitch_modules("s", under.id, over.id)
    with pytest.raises(NotFoundError):
        stitch_modules("s", lower.id, "nothing")
    with pytest.raises(StitchError, match=r"not worth storing: .* --force"):
        stitch_modules("s", lower.id, upper.id, stitch=FEW)
    assert registry.modules.find(kind="stitch") == ()
    assert not list(registry.settings.work_dir.glob("*/job.json"))

    killed: list[int] = []
    events: list[Event] = []

    def kill(event: Event) -> None:
        events.append(event)
        if isinstance(event, EpochDone) and event.epoch >= 20 and not killed:
            (job,) = registry.settings.work_dir.glob("*/job.json")
            lines = map(json.loads, job.with_name("progress.jsonl").read_text().splitlines())
            killed.append([line["pid"] for line in lines if line["event"] == "started"][-1])
            os.kill(killed[0], signal.SIGKILL)
            assert registry.modules.find(kind="stitch") == ()

    slow = FEW.changed(recipe=FEW.recipe.changed(epochs=400))
    with watch(kill):
        made = stitch_modules("s", lower.id, upper.id, stitch=slow, force=True)
    assert killed
    record = registry.modules.resolve("s")
    assert record.id == made.id
    assert len(registry.modules.report(record).history) == 400
    # It was kept against advice, which is told everywhere.
    assert made.stitch is not None
    assert made.stitch.objection is not None
    assert any(isinstance(one, Note) and "not worth it" in one.text for one in events)
    assert "**Kept against advice (--force)" in card(registry, record)
