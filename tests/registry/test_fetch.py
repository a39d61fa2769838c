"""Modules that several fetch at once."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

from modkernel.registry import Registry
from tests.registry.helpers.examples import Examples, store_one


def test_all_that_fetch_a_module_at_once_get_it(registry: Registry, examples: Examples) -> None:
    stored = examples.first()
    record = store_one(registry, stored)
    shutil.rmtree(stored.folder)
    for _ in range(10):
        shutil.rmtree(registry.settings.cache_dir / "modules", ignore_errors=True)
        with ThreadPoolExecutor(8) as pool:
            fetched = list(pool.map(registry.modules.fetch, [record] * 16))
        assert {one.id for one in fetched} == {record.id}
    left = {file.name for file in (registry.settings.cache_dir / "modules").iterdir()}
    assert left == {record.id}
