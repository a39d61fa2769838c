"""What is said of a zip with names that no bundle has."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from modkernel.errors import BundleError
from modkernel.registry.bundles.archive import opened


@pytest.mark.parametrize(
    ("name", "quoted"),
    [
        ("short.txt", "'short.txt'"),
        ("a" * 78, f"'{'a' * 78}'"),
        ("a" * 300, f"'{'a' * 78}…'"),
        ("\n" * 300, f"'{chr(92)}n{chr(92)}n"),
    ],
)
def test_a_foreign_name_is_cut_and_stays_in_its_quotes(
    name: str, quoted: str, tmp_path: Path
) -> None:
    path = tmp_path / "made-up.mkb"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(name, b"")
    with pytest.raises(BundleError) as caught, opened(path):
        pass
    said = str(caught.value)
    assert f"has a file {quoted}" in said
    shown = said.removeprefix("The zip has a file ").partition(", and a bundle has none")[0]
    assert len(shown) <= 81
    assert shown.startswith("'")
    assert shown.endswith("'")
