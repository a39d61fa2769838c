"""What a search file may say, what it asks for, and how candidates are described."""

from __future__ import annotations

from pathlib import Path

import pytest

from modkernel.errors import (
    SpecError,
)
from modkernel.flows.runtime.results import ModuleResult
from modkernel.flows.search.result import CandidateResult, cost, describe
from modkernel.flows.search.spec import SearchSpec
from modkernel.flows.specs.read import parse_spec, read_spec
from modkernel.spec import KernelSpec, ObjectiveSpec
from tests.flows.test_search import candidate

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def test_descriptions_name_what_differs() -> None:
    plain = candidate()
    assert describe([plain]) == ("the only one",)
    wide = candidate(3, width=5)
    assert describe([plain, wide]) == ("epochs 1", "epochs 3, width 5")
    assert describe([wide, plain]) == ("epochs 3, width 5", "epochs 1, width as usual")
    assert describe([plain, candidate(width=5)]) == ("as the backbone", "width 5")
    tanh = plain.changed(kernel=KernelSpec(name="tanh"))
    warm = plain.changed(objective=ObjectiveSpec(temperature=0.25))
    assert describe([plain, tanh, warm]) == (
        "kernel relu",
        "kernel tanh",
        "temperature 0.25",
    )


def test_a_search_file_gets_one_sentence_with_the_place(tmp_path: Path) -> None:
    def parse(text: str) -> SearchSpec:
        return parse_spec(text, SearchSpec, name="s.yaml", folder=tmp_path)

    for text, message in {
        "[]": "must be a mapping of fields (name, dataset, backbone, stages, beam, score",
        "name: a": "'stages' is missing",
        "name: a\nstages: []": "'stages' needs at least 1 item(s)",
        "name: a\nstages: [{candidates: [{widht: 3}]}]": (
            "unknown field 'stages[0].candidates[0].widht' (use one of until, kernel, objective,"
        ),
    }.items():
        with pytest.raises(SpecError) as caught:
            parse(text)
        assert message in str(caught.value)
    search = "name: a\nstages: [{candidates: [{}]}]\ndataset: {path: %s}"
    assert parse(search % "x.npz").dataset.path == str(tmp_path / "x.npz")
    assert parse(search % "birds").dataset.path == "birds"  # A name, which each machine maps.


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("search_*.yaml")), ids=lambda p: p.stem)
def test_examples(path: Path) -> None:
    spec = read_spec(path, SearchSpec)
    assert spec.name == path.stem.replace("_", "-")
    assert min(len(stage.candidates) for stage in spec.stages) >= 2


def test_the_product_is_priced_by_mean_times() -> None:
    def row(stage: int, number: int, seconds: float) -> CandidateResult:
        return CandidateResult(
            stage=stage, candidate=number, description="", stands_on=None, score=1.0, kept=False,
            module=ModuleResult(
                id="0", name="n", version=1, kind="hidden", reused=False, seconds=seconds,
                objective=None, peak_memory_bytes=None, run_id=None,
            ),
        )  # fmt: skip

    stages = [[row(1, 1, 1.0), row(1, 2, 3.0)], [row(2, 1, 4.0), row(2, 2, 4.0), row(2, 3, 4.0)]]
    assert cost(stages) == (16.0, 6, 6 * (2.0 + 4.0))
