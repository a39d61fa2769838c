"""Ground truths beside a module: for all machines, and as moments are when they are lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from modkernel.errors import ArtifactError, NotFoundError
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.registry.records import GroundTruthRecord
from modkernel.reuse.ground_truth import GroundTruth, GroundTruthSpec
from modkernel.reuse.scores import SCORES
from modkernel.reuse.scores.table import ON_MOMENTS
from modkernel.reuse.task import Task
from modkernel.spec import OutputSpec
from tests.registry.test_store import alter, kept_folder

pytestmark = pytest.mark.home("one")
NAMES = [name for name, score in SCORES.items() if score.needs not in ON_MOMENTS]


def truth_of(record: ModuleRecord, accuracy: float = 0.5, seed: int = 0) -> GroundTruth:
    task = Task.of_classes(("a", "b"))
    spec = GroundTruthSpec(
        module_id=record.id,
        fingerprint="f" * 64,
        own=task,
        targets=(task,),
        output=OutputSpec(),
        seed=seed,
    )
    return GroundTruth(
        spec=spec,
        accuracy=(accuracy,),
        balanced_accuracy=(accuracy,),
        worst_accuracy=(accuracy,),
        scores={name: (0.25,) for name in NAMES},
        undefined={},
        score_seconds=dict.fromkeys(NAMES, 0.1),
        truth_seconds=1.0,
    )


def written(path: Path, truth: GroundTruth) -> Path:
    path.write_text(truth.model_dump_json())
    return path


@pytest.fixture
def record(records: tuple[ModuleRecord, ...]) -> ModuleRecord:
    return records[0]


@pytest.fixture
def kept(
    registry: Registry, record: ModuleRecord, tmp_path: Path
) -> tuple[GroundTruth, GroundTruthRecord]:
    truth = truth_of(record)
    assert registry.ground_truths.store(written(tmp_path / "truth.json", truth)) == truth
    (there,) = registry.ground_truths.of(record)
    return truth, there


def in_mlflow(registry: Registry, record: ModuleRecord, there: GroundTruthRecord) -> Path:
    return kept_folder(registry, record) / there.path


def test_another_machine_finds_it_and_another_question_does_not(
    registry: Registry,
    record: ModuleRecord,
    kept: tuple[GroundTruth, GroundTruthRecord],
    settings: Settings,
    tmp_path: Path,
) -> None:
    truth, there = kept
    assert registry.verify() == ()
    assert there.size_bytes == in_mlflow(registry, record, there).stat().st_size
    away = Settings(
        home=tmp_path / "away",
        database_url=settings.registry_url,
        mlflow_uri=settings.mlflow_uri,
    )
    with Registry.open(away) as other:
        assert other.ground_truths.find(truth.spec) == truth
        assert other.ground_truths.find(truth.spec.changed(seed=1)) is None
        assert other.ground_truths.find(truth.spec.changed(module_id="a" * 64)) is None


def test_the_first_stays_unless_it_lacks_a_score_that_there_is_now(
    registry: Registry,
    record: ModuleRecord,
    kept: tuple[GroundTruth, GroundTruthRecord],
    tmp_path: Path,
) -> None:
    truth, _ = kept
    second = truth_of(record, accuracy=0.75)
    assert registry.ground_truths.store(written(tmp_path / "second.json", second)) == truth
    old = truth_of(record, seed=1)
    few = old.changed(scores={name: old.scores[name] for name in NAMES[1:]})
    registry.ground_truths.store(written(tmp_path / "few.json", few))
    assert registry.ground_truths.find(old.spec) is None
    assert registry.ground_truths.store(written(tmp_path / "old.json", old)) == old
    assert registry.ground_truths.find(old.spec) == old
    assert len(registry.ground_truths.of(record)) == 2
    assert registry.verify() == ()


@pytest.mark.parametrize("damage", [alter, Path.unlink])
def test_what_mlflow_lost_is_restored_from_the_private_copy(
    registry: Registry,
    record: ModuleRecord,
    kept: tuple[GroundTruth, GroundTruthRecord],
    damage: Callable[[Path], None],
) -> None:
    truth, there = kept
    damage(in_mlflow(registry, record, there))
    (problem,) = registry.verify()
    assert (problem.kind, problem.module_id) == ("ground_truth", record.id)
    assert there.digest[:12] in problem.message
    assert [action.kind for action in registry.repair()] == ["restored"]
    assert (registry.verify(), registry.repair()) == ((), ())
    damage(registry.ground_truths.copy_of(there))
    assert registry.ground_truths.find(truth.spec) == truth


def test_what_is_nowhere_is_dropped_and_can_be_stored_again(
    registry: Registry,
    record: ModuleRecord,
    kept: tuple[GroundTruth, GroundTruthRecord],
    tmp_path: Path,
) -> None:
    truth, there = kept
    alter(in_mlflow(registry, record, there))
    registry.ground_truths.copy_of(there).unlink()
    assert registry.ground_truths.find(truth.spec) is None
    assert [action.kind for action in registry.repair()] == ["dropped"]
    assert (registry.verify(), registry.ground_truths.of(record)) == ((), ())
    registry.ground_truths.store(written(tmp_path / "again.json", truth))
    assert registry.ground_truths.find(truth.spec) == truth


def test_a_model_that_is_made_again_has_it(
    registry: Registry, record: ModuleRecord, kept: tuple[GroundTruth, GroundTruthRecord]
) -> None:
    truth, there = kept
    registry.modules.fetch(record)
    registry.backends.client.delete_logged_model(record.model_id or "")
    assert [action.kind for action in registry.repair()] == ["restored", "restored"]
    assert registry.verify() == ()
    shutil.rmtree(registry.ground_truths.copy_of(there).parent)
    assert registry.ground_truths.find(truth.spec) == truth


def test_a_foreign_file_beside_it_is_found(
    registry: Registry, record: ModuleRecord, kept: tuple[GroundTruth, GroundTruthRecord]
) -> None:
    in_mlflow(registry, record, kept[1]).with_name("code.py").touch()
    (problem,) = registry.verify()
    assert problem.kind == "artifact"
    assert "ground_truth/code.py" in problem.message


def test_what_cannot_be_stored(registry: Registry, record: ModuleRecord, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="No such file"):
        registry.ground_truths.store(tmp_path / "b.json")
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(ArtifactError, match="not a ground truth"):
        registry.ground_truths.store(tmp_path / "c.json")
    foreign = truth_of(record.model_copy(update={"id": "b" * 64}))
    with pytest.raises(NotFoundError, match="bbbbbbbbbbbb"):
        registry.ground_truths.store(written(tmp_path / "d.json", foreign))
    assert registry.ground_truths.of(record) == ()
