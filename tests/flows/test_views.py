"""Networks from views through the real flow: every figure says how many labels they saw."""

from __future__ import annotations

from pathlib import Path

import pytest

from modkernel.flows.labels.suggest import suggest
from modkernel.flows.retrain_network import retrain_network
from modkernel.flows.specs.read import parse_spec
from modkernel.flows.team.needs import paths_in
from modkernel.flows.train_network import train_network
from modkernel.registry import Registry
from modkernel.registry.bundles.write import _portable_pairs
from modkernel.spec.pairs import VIEW_TEMPERATURE
from tests.flows.helpers.specs import tiny


def page(registry: Registry, name: str, version: int | None) -> str:
    found = registry.backends.client.get_model_version(name, str(version))
    return f"{found.description} {found.tags}"


def test_a_network_whose_hidden_modules_saw_no_label(registry: Registry, tmp_path: Path) -> None:
    result = train_network(tiny("unseen", epochs=(1,)).changed(pairs="views"))
    assert result.evaluation is not None
    assert result.evaluation.labels_told == "10 labels in all (hidden modules saw none)"
    assert result.evaluation.remarks.startswith("10 labels in all (hidden modules saw none).")
    top = registry.modules.resolve("unseen.hidden-1")
    assert top.spec.dataset.pairs == "views"
    assert top.spec.hidden.objective.temperature == VIEW_TEMPERATURE
    card = page(registry, top.name, top.version)
    assert "no label of these classes had a part in its training" in card
    assert "'labels': 'none'" in card
    network = registry.networks.resolve(result.id)
    assert "10 labels in all (hidden modules saw none)" in page(
        registry, network.name, network.version
    )

    found = suggest(registry, top, None, 7, tmp_path / "labels.csv")
    assert found.labels_told == "7 labels in all (hidden modules saw none)"

    # Trained again as it was, it is on views again: nothing new is trained.
    again = retrain_network(result.id, "1", name="again", seed=5)
    assert registry.modules.resolve("again.hidden-1").spec.dataset.pairs == "views"
    assert again.evaluation is not None
    assert again.evaluation.labels_told == result.evaluation.labels_told


@pytest.mark.long
def test_a_network_on_labels_says_how_many_its_hidden_modules_saw(registry: Registry) -> None:
    result = train_network(tiny("seen"))
    examples = registry.modules.report(registry.modules.resolve("seen.hidden-1")).examples
    assert result.evaluation is not None
    assert result.evaluation.labels_told == (
        f"10 labels for the output module; hidden modules saw the pairs of {examples:,} labels"
    )
    with_labels = train_network(tiny("both").changed(pairs="views+labels"))
    assert with_labels.evaluation is not None
    assert with_labels.evaluation.labels_told == result.evaluation.labels_told
    ids = [registry.modules.resolve(f"{name}.hidden-1").id for name in ("seen", "both")]
    assert len(set(ids)) == 2


def test_a_file_beside_views_is_found_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "same.csv").write_text("0,1,1\n")
    for given, told in (
        ("views", "views"),
        ("views+labels", "views+labels"),
        ("views+same.csv", f"views+{tmp_path / 'same.csv'}"),
        ("same.csv", str(tmp_path / "same.csv")),
    ):
        spec = parse_spec(f"{{name: x, pairs: {given}}}", name="x", folder=tmp_path)
        assert spec.pairs == told
        files = [] if told in ("views", "views+labels") else [str(tmp_path / "same.csv")]
        assert list(paths_in(spec.model_dump(mode="json"))) == files
    assert _portable_pairs(f"views+{tmp_path / 'same.csv'}") == "views+same"
    assert _portable_pairs("views+labels") == "views+labels"
