"""Tests that drive a browser are skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.flows.browser.page import find_browser, running_browser


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The browser of all tests of this folder.

    Of no others: while it runs, an event loop does in this thread, which flows would see.
    """
    with running_browser() as started:
        yield started


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `browser` without Debian's chromium or one of its kin."""
    if find_browser() is None:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip("no chromium is installed (apt install chromium)"))
