"""Moments in a bundle, checked as far as anybody can who does not have the data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from modkernel.errors import ArtifactError, BundleError, InterfaceError
from modkernel.kernels import Kernel, make_kernel
from modkernel.modules.stored import StoredModule
from modkernel.registry.bundles.manifest import ModuleEntry
from modkernel.reuse.moments import ClassMoments, ModuleMoments
from modkernel.reuse.moments_file import read_moments
from modkernel.system.files import hash_file

LENGTH_TOLERANCE = 1e-4
"""Relative, of the squared length of features that were made unit rows in float32."""
ROUNDING = 1e-8
"""Of the mean squared length: as far below zero rounding may leave a variance."""


def checked_moments(entry: ModuleEntry, stored: StoredModule) -> Iterator[tuple[Path, str | None]]:
    """The files of a module's moments, each with the name of its data set, where that was told.

    Args:
        entry: what the manifest says of the module.
        stored: the module, whose folder has the files; its spec is checked already.

    Raises:
        BundleError: a file holds none, those of something else, or such as no examples have.
    """
    for fingerprint, dataset in entry.moments.items():
        path = stored.folder / "moments" / f"{fingerprint}.safetensors"
        what = f"The moments {fingerprint[:12]} of module {stored.id[:12]} in the bundle"
        try:
            moments = _read(path)
        except (ArtifactError, SafetensorError) as error:
            raise BundleError(f"{what} are none. Have it exported again.") from error
        parts = () if moments is None else (moments.train, moments.validation)
        if (
            moments is None
            or moments.module_id != stored.id
            or any(part.fingerprint != fingerprint for part in parts)
        ):
            raise BundleError(f"{what} are none, or of something else: it was altered.")
        kernel = make_kernel(stored.spec.interface.kernel)
        if not _has_dimension(moments.train.dimension, kernel, stored):
            raise BundleError(
                f"{what} are of {moments.train.dimension} features, which is not what the module "
                "gives: it was altered."
            )
        for part in parts:
            if (wrong := _wrong(part, kernel)) is not None:
                raise BundleError(f"{what} {wrong}. Have the module measured and exported again.")
        yield path, dataset


def _read(path: Path) -> ModuleMoments | None:
    with safe_open(path, framework="np") as file:
        # Of no class at all, a dimension costs nothing to claim and its square to unpack.
        if any(0 in file.get_slice(name).get_shape() for name in file.keys()):  # noqa: SIM118
            return None
    return read_moments(path, hash_file(path))


def _has_dimension(dimension: int, kernel: Kernel, stored: StoredModule) -> bool:
    interface = stored.spec.interface
    if not kernel.has_features:  # Against centres, of which few examples give fewer.
        return dimension <= interface.kernel.centres
    try:
        return dimension == kernel.features(torch.zeros(1, *interface.gives)).shape[1]
    except InterfaceError:  # Nothing can be measured under a kernel that takes no such output.
        return False


def _wrong(part: ClassMoments, kernel: Kernel) -> str | None:
    """What no features of any examples have: a reason to refuse class moments, in words."""
    sums, products, counts = part.sums, part.products, part.counts.double()
    if not all(torch.isfinite(one).all() for one in (sums, products, part.squares, part.fourths)):
        return "have values that are no numbers"
    if any((one < 0).any() for one in (part.counts, part.squares, part.fourths)):
        return "have negative counts or lengths"
    # Unit rows, or values of a kernel that are at most 1.
    longest = 1 if kernel.has_features else part.dimension
    lengths = products.diagonal(dim1=1, dim2=2).sum(1)
    if bool((lengths > longest * counts * (1 + LENGTH_TOLERANCE)).any()):
        return "are of longer features than its kernel gives"
    for n, total, second in zip(counts.clamp_min(1), sums, products, strict=True):
        mean = total / n
        covariance = second / n - torch.outer(mean, mean)
        covariance.diagonal().add_(ROUNDING * longest)
        if int(torch.linalg.cholesky_ex(covariance).info):
            return "have variances below zero"
    return None
