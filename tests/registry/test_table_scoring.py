"""Tables whose columns have names, through MLflow's pyfunc."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models.utils import _enforce_schema

from modkernel.backbones import build_hidden
from modkernel.modules.network import assemble
from modkernel.modules.stored import write_module
from modkernel.registry.tracking.scoring import Predictor, signature_of
from modkernel.registry.tracking.tags import labels_of
from modkernel.spec import (
    BackboneSpec,
    HiddenModuleSpec,
    HiddenSpec,
    Interface,
    KernelSpec,
    OutputModuleSpec,
    OutputSpec,
    Preprocessing,
    StitchModuleSpec,
    StitchSpec,
)
from tests.modkernel.helpers.stored_examples import FACTS

COLUMNS = ("age", "income")


@pytest.fixture
def predictor(tmp_path: Path) -> Predictor:
    takes = Preprocessing(
        shape=(2,), dtype="float32", mean=(40, 1500), std=(10, 500), columns=COLUMNS
    )
    kernel, backbone = KernelSpec(name="tanh"), BackboneSpec(name="mlp", width=4, depth=1)
    below = Interface(upstream=takes.id, takes=(2,), gives=(4,), kernel=kernel)
    hidden = HiddenModuleSpec(
        interface=below,
        dataset=FACTS,
        seed=0,
        preprocessing=takes,
        backbone=backbone,
        blocks=("linear1",),
        hidden=HiddenSpec(kernel=kernel, tail="none"),
    )
    weights = build_hidden(backbone, ("linear1",), (2,), 0).state_dict()
    first = write_module(tmp_path / "hidden", hidden, weights)
    on_top = Interface(upstream=first.id, takes=(4,), gives=(2,), kernel=kernel)
    output = OutputModuleSpec(
        interface=on_top,
        dataset=FACTS,
        seed=0,
        preprocessing=takes,
        output=OutputSpec(),
        classes=("no", "yes"),
    )
    generator = torch.Generator().manual_seed(1)
    values = {"weight": 3 * torch.randn(2, 4, generator=generator), "bias": torch.zeros(2)}
    return Predictor(assemble([first, write_module(tmp_path / "output", output, values)]))


def test_columns_are_taken_by_their_names(predictor: Predictor) -> None:
    table = pd.DataFrame({"age": [30, 60], "income": [1000.0, None], "shoe": [41, 42]})
    expected = predictor.predict(table[list(COLUMNS)].to_numpy())
    takes = signature_of(predictor.network.stored[-1].spec).inputs
    for given in (table, table[["shoe", "income", "age"]]):
        for passed in (given, _enforce_schema(given, takes)):  # What MLflow does before.
            found = predictor.predict(passed)
            np.testing.assert_array_equal(found["probability"], expected["probability"])
    unnamed = pd.DataFrame(table[list(COLUMNS)].to_numpy())
    assert predictor.predict(unnamed).equals(expected)


def test_a_column_of_another_name_is_refused(predictor: Predictor) -> None:
    table = pd.DataFrame({"age": [30.0], "wage": [1000.0]})
    with pytest.raises(MlflowException, match="There is no column income: give a table with the"):
        predictor.predict(table)
    with pytest.raises(MlflowException, match="missing inputs \\['income'\\]"):
        _enforce_schema(table, signature_of(predictor.network.stored[-1].spec).inputs)


def test_a_stitch_saw_the_labels_that_its_upper_module_saw(predictor: Predictor) -> None:
    upper = predictor.network.stored[0].spec
    assert upper.kind == "hidden"
    for pairs, labels in ((None, "all"), ("views", "none")):
        seen = upper.changed(dataset=upper.dataset.changed(pairs=pairs))
        assert labels_of(seen) == labels
        stitch = StitchModuleSpec(
            interface=upper.interface,
            dataset=FACTS,
            seed=0,
            preprocessing=upper.preprocessing,
            upper=seen,
            upper_id="f" * 64,
            stitch=StitchSpec(),
        )
        assert labels_of(stitch) == labels
