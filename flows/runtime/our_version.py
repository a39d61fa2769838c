"""The version of modkernel that this process runs."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    OUR_VERSION = version("modkernel")
except PackageNotFoundError:  # A source tree that was never installed.
    OUR_VERSION = "unknown"
