"""A stored module on a table's columns is refused on other columns, before anything is trained."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from modkernel.errors import InterfaceError
from modkernel.flows.plans.datasets import check_fits
from modkernel.registry.advice.shelf import takes
from modkernel.spec import Preprocessing


def on(columns: tuple[str, ...] | None) -> Preprocessing:
    return Preprocessing(shape=(2,), dtype="float32", mean=(0.0,), std=(1.0,), columns=columns)


@pytest.mark.parametrize(
    ("trained", "found", "fits"),
    [
        (("size", "colour=red"), ("size", "colour=red"), True),
        (("size", "colour=red"), ("colour=red", "size"), False),
        (("size", "colour=red"), ("size", "colour=blue"), False),
        (("size", "colour=red"), None, True),
        (None, ("size", "colour=red"), True),
    ],
)
def test_columns_have_to_be_those_of_the_module(
    trained: tuple[str, ...] | None, found: tuple[str, ...] | None, fits: bool
) -> None:
    info: Any = SimpleNamespace(name="birds", preprocessing=on(found))
    spec = SimpleNamespace(preprocessing=on(trained))
    record = cast("Any", SimpleNamespace(short_id="0a1b", name="net.hidden-1", spec=spec))
    assert takes(on(trained), on(found)) == fits
    if fits:
        check_fits(info, record)
    else:
        with pytest.raises(InterfaceError, match=r"column \d is '.*', and that of .*'birds'"):
            check_fits(info, record)
