"""Tests that drive a browser are skipped where there is none."""

from __future__ import annotations

import pytest

from tests.flows.browser.page import find_browser


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `browser` without Debian's chromium or one of its kin."""
    if find_browser() is None:
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip("no chromium is installed (apt install chromium)"))
