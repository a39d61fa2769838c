"""What a module was trained on tells nothing of how good it is: advice leaves that out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from modkernel.data import ExampleDigests
from modkernel.modules.stored import StoredModule, write_module
from modkernel.registry import Advice, ModuleRecord, Ranked, Registry
from modkernel.registry.advice import ranking
from modkernel.reuse.moments import ModuleMoments, accumulate
from modkernel.reuse.moments_file import write_moments
from modkernel.reuse.scores import reusability
from modkernel.reuse.task import parse_task
from tests.modkernel.helpers.feature_examples import Cached
from tests.modkernel.helpers.stored_examples import FACTS, PREPROCESSING, make_hidden
from tests.registry.helpers.examples import store_chain
from tests.registry.test_advice import BASE, CLASSES, Kept, features, info, keep


@pytest.mark.parametrize("on_pairs", [0, 1, None])
def test_validation_examples_that_a_chain_was_trained_on_tell_no_accuracy(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_pairs: int | None
) -> None:
    chain: list[StoredModule] = []
    for position, (block, takes) in enumerate((("stem", (1, 8, 8)), ("layer1.0", (2, 8, 8)))):
        upstream = chain[-1].id if chain else PREPROCESSING.id
        spec, module = make_hidden((block,), takes, upstream)
        known = "0" * 64 if position == on_pairs else None
        facts = FACTS.changed(fingerprint=BASE, pairs_fingerprint=known)
        spec = spec.changed(dataset=facts)
        chain.append(write_module(tmp_path / block, spec, module.state_dict()))
    top = store_chain(registry, tuple(chain))[-1]
    keep(registry, top, tmp_path)
    (phi, labels), (held_out, answers) = features(0, 80), features(50, 80)
    kept = Kept(phi[:, :4], labels, held_out[:, :4], answers)
    monkeypatch.setattr(ranking, "feature_cache", lambda _: Cached(kept))
    (one,) = registry.advice.rank(parse_task("cat, dog"), info()).ranked
    assert (one.accuracy is None) == (on_pairs is not None)
    assert one.reason == (None if on_pairs is None else "pairs")
    assert one.interval is not None, "training examples are told by"


@pytest.mark.home("one")
@pytest.mark.parametrize("stride", [1, 3, 1000])
def test_held_out_examples_that_a_module_was_trained_on_are_left_out(
    registry: Registry,
    records: tuple[ModuleRecord, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stride: int,
) -> None:
    (record,) = records
    train, (phi, labels) = features(0, 80), features(50, 200)
    both = (accumulate([part], CLASSES, BASE) for part in (train, (phi, labels)))
    write_moments(tmp_path / "new", ModuleMoments(record.id, *both, 0.1))
    registry.moments.store(record, tmp_path / "new")
    # The module's own data had every so many of the held-out examples, and one of a training one.
    known, nothing = np.arange(200, 400, stride), np.arange(0)
    fitted = np.append(known, 0 if stride == 3 else 5_000)
    fingerprint = record.spec.dataset.fingerprint
    registry.examples.remember(ExampleDigests(fingerprint, fitted, np.arange(80), nothing))

    def ask(kept: Kept) -> Ranked:
        monkeypatch.setattr(ranking, "feature_cache", lambda _: Cached(kept))
        (one,) = registry.advice.rank(parse_task("cat, dog"), info()).ranked
        return one

    digests = torch.arange(80), torch.arange(200, 400)
    one = ask(Kept(*train, phi, labels, *digests))
    is_known = torch.from_numpy(np.isin(np.arange(200, 400), known))
    of_task = (labels == CLASSES.index("cat")) | (labels == CLASSES.index("dog"))
    assert one.seen == int((is_known & of_task).sum())
    assert one.fitted == (stride == 3)
    if stride == 1:
        assert (one.accuracy, one.reason) == (None, "seen")
    else:
        without = ask(Kept(*train, phi[~is_known], labels[~is_known]))
        assert one.accuracy == without.accuracy
        assert (one.reason, without.seen) == (None, 0)


@pytest.mark.home("one")
@pytest.mark.parametrize("own", [40, 0])
def test_training_examples_that_are_validated_on_tell_no_accuracy(
    registry: Registry,
    records: tuple[ModuleRecord, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: int,
) -> None:
    (record,) = records
    train, held = features(0, 80), features(50, 40)
    # Of a small set, after the validation examples of its own come some that are trained on.
    lent = tuple(part[:12] for part in train)
    phi, labels = (torch.cat([ours[:own], theirs]) for ours, theirs in zip(held, lent, strict=True))
    both = (accumulate([part], CLASSES, BASE) for part in (train, (phi, labels)))
    write_moments(tmp_path / "new", ModuleMoments(record.id, *both, 0.1))
    registry.moments.store(record, tmp_path / "new")

    def ask(kept: Kept | None, borrowed: int, score: str = "logme") -> Advice:
        monkeypatch.setattr(ranking, "feature_cache", lambda _: Cached(kept))
        return registry.advice.rank(parse_task("cat, dog"), info(n_borrowed=borrowed), score)

    kept = Kept(*train, phi, labels)
    (one,) = ask(kept, 12).ranked
    by_held_out = ask(kept, 12, "ridge")
    (gone,) = ask(None, 12, "ridge").left_out
    assert gone.reason == "features", "which measuring it again brings back"
    if own:
        (without,) = ask(Kept(*train, *held), 0).ranked
        assert one.accuracy == without.accuracy
        assert (one.knn, one.reason) == (without.knn, None)
        (found,) = by_held_out.ranked
        moments = (accumulate([part], CLASSES, BASE) for part in (train, held))
        expected = reusability(next(moments), parse_task("cat, dog"), "ridge", next(moments))
        assert found.score == pytest.approx(expected)
    else:
        assert (one.accuracy, one.knn, one.reason) == (None, None, "score")
        assert one.message is not None
        assert "All 6 examples of the task that are validated on are training" in one.message
        assert by_held_out.ranked == ()
        assert [left.reason for left in by_held_out.left_out] == ["score"]
