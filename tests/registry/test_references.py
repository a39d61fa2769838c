from __future__ import annotations

from collections.abc import Iterator

import pytest

from modkernel.errors import AmbiguousError, NotFoundError, SpecError
from modkernel.registry import Catalogue, ModuleRecord, Registry
from modkernel.registry.sql.tables import ModuleRow
from tests.registry.helpers.stored_homes import opened_copy

NAME = "net.hidden-1"
pytestmark = pytest.mark.home("versions")


@pytest.fixture(scope="module")
def promoted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Three versions of a name, the first of which is champion; for tests that change nothing."""
    with opened_copy(tmp_path_factory, "versions") as registry:
        registry.promotions.promote(NAME, "champion", 1)
        yield registry


def test_every_form_of_a_reference(registry: Registry, records: tuple[ModuleRecord, ...]) -> None:
    old, new, _ = records
    registry.promotions.promote(NAME, "champion", 1)
    assert registry.modules.resolve(old.id) == old
    assert registry.modules.resolve(old.id[:6]) == old
    assert registry.modules.resolve(f"{NAME}/1") == old
    assert registry.modules.resolve(f"{NAME}/2") == new
    assert registry.modules.resolve(f"{NAME}@champion") == old
    assert registry.modules.resolve(NAME) == records[-1]


def test_an_alias_is_read_at_that_moment(
    registry: Registry, records: tuple[ModuleRecord, ...]
) -> None:
    client = registry.backends.client
    for version, expected in (("1", records[0]), ("2", records[1]), ("1", records[0])):
        client.set_registered_model_alias(NAME, "champion", version)
        assert registry.modules.resolve(f"{NAME}@champion") == expected


def test_a_version_deleted_by_a_person_is_not_resolved(
    registry: Registry, records: tuple[ModuleRecord, ...]
) -> None:
    registry.backends.client.delete_model_version(NAME, "1")
    with pytest.raises(NotFoundError, match=r"no version '1'"):
        registry.modules.resolve(f"{NAME}/1")
    assert registry.modules.resolve(records[0].id) == records[0]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("net.hidden-3", r"No module answers to 'net.hidden-3'.*Did you mean 'net.hidden-1'\?"),
        ("something", r"No module answers to 'something': write an id"),
        ("abc", r"at least 6 digits"),
        ("0" * 12, r"No module's id begins with '000000000000'"),
        (f"{NAME}@best", r"no alias 'best' in MLflow \(it has champion\)"),
        ("other@best", r"No module answers to 'other'"),
        (f"{NAME}/7", r"no version '7' in MLflow"),
        (f"{NAME}/x", r"no version 'x' in MLflow"),
        (f"{NAME}/{2**31}", r"no version '2147483648' in MLflow"),
        (f"{NAME}/{'9' * 20}", r"no version '9{20}' in MLflow"),
        (f"{NAME}/{'9' * 5000}", r"no version '9{5000}' in MLflow"),
        ("other/1", r"No module answers to 'other'"),
    ],
)
def test_what_answers_to_nothing(promoted: Registry, reference: str, message: str) -> None:
    for resolve in (promoted.modules.resolve, Catalogue.open(promoted.settings).module):
        with pytest.raises(NotFoundError, match=message):
            resolve(reference)


def test_a_prefix_of_two_ids(registry: Registry, records: tuple[ModuleRecord, ...]) -> None:
    twin = records[0].id[:10] + "f" * 54
    with registry.backends.database.writing() as session:
        row = session.get_one(ModuleRow, records[0].id)
        columns = {c.key: getattr(row, c.key) for c in ModuleRow.__table__.columns}
        session.add(ModuleRow(**(columns | {"id": twin})))
    with pytest.raises(AmbiguousError, match=r"several modules .*write more digits"):
        registry.modules.resolve(twin[:10])
    assert registry.modules.resolve(records[0].id[:12]) == records[0]


def test_a_model_that_is_not_ours(registry: Registry) -> None:
    registry.backends.client.create_registered_model("foreign")
    registry.backends.client.create_model_version("foreign", source="file:///nowhere")
    with pytest.raises(NotFoundError, match="a model that modkernel did not store"):
        registry.modules.resolve("foreign/1")


def test_promotions_follow_what_people_set(
    registry: Registry, records: tuple[ModuleRecord, ...]
) -> None:
    client = registry.backends.client
    assert registry.promotions.sync() == ()
    client.set_registered_model_alias(NAME, "champion", "1")
    client.set_registered_model_alias(NAME, "candidate", "2")
    assert {(p.alias, p.version, p.module_id) for p in registry.promotions.sync()} == {
        ("champion", 1, records[0].id),
        ("candidate", 2, records[1].id),
    }
    assert registry.promotions.sync() == ()
    client.set_registered_model_alias(NAME, "champion", "2")
    client.delete_registered_model_alias(NAME, "candidate")
    registry.promotions.sync()
    history = [(p.alias, p.version) for p in registry.promotions.history(NAME)]
    assert history[2:] == [("candidate", None), ("champion", 2)]


def test_promoting_is_seen_in_mlflow(registry: Registry, records: tuple[ModuleRecord, ...]) -> None:
    seen = registry.promotions.promote(NAME, "champion", 2)
    assert (seen.version, seen.module_id) == (2, records[1].id)
    assert registry.backends.client.get_model_version_by_alias(NAME, "champion").version == 2
    with pytest.raises(NotFoundError, match="no version 9"):
        registry.promotions.promote(NAME, "champion", 9)
    with pytest.raises(SpecError, match="'v1' as an alias"):
        registry.promotions.promote(NAME, "v1", 2)
