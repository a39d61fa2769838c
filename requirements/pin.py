"""Print the versions of all that modkernel and its tests stand on, as pip constraints.

Run by `make constraints` with the interpreter of the environment that is to be written down.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

HEADER = """\
# The versions that the tests proved, written by `make constraints`: do not edit by hand.
# CUDA's libraries and triton are missing on purpose: each build of torch names its own.
"""
OF_TORCH = ("cuda-", "nvidia-", "triton")
"""Beginnings of the names of what comes with a build of torch: a CPU build has none of them."""


def pins(root: str, extra: str) -> Iterator[str]:
    """`name==version` of each distribution that `root[extra]` needs here, sorted by name.

    Walking the requirements instead of listing the environment leaves out what somebody installed
    by hand, and the version alone, without its local part, is what every index has.

    Raises:
        PackageNotFoundError: root is not installed.
    """
    seen, left = set(), [Requirement(f"{root}[{extra}]")]
    versions: dict[NormalizedName, str] = {}
    while left:
        wanted = left.pop()
        name, extras = canonicalize_name(wanted.name), frozenset(wanted.extras)
        if (name, extras) in seen or name.startswith(OF_TORCH):
            continue
        seen.add((name, extras))
        try:
            found = distribution(name)
        except PackageNotFoundError:
            if name == root:
                raise
            continue
        versions[name] = Version(found.version).public
        for line in found.requires or ():
            needed = Requirement(line)
            if needed.marker is None or any(
                needed.marker.evaluate({"extra": one}) for one in (*extras, "")
            ):
                left.append(needed)
    del versions[canonicalize_name(root)]
    for name in sorted(versions):
        yield f"{name}=={versions[name]}"


if __name__ == "__main__":
    print(HEADER + "\n".join(pins("modkernel", "dev")))
