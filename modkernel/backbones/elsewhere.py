"""Architectures of torchvision and timm as backbones: 'torchvision/resnet18', 'timm/resnet50d'.

They are built without weights, so nothing is ever downloaded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from torch import nn

from modkernel.backbones.traced import Traced, trace
from modkernel.backbones.whole import Make, on_meta
from modkernel.errors import SpecError, UnknownNameError
from modkernel.spec import BackboneSpec

NEAR = 5
"""Names that an error proposes."""


@dataclass(frozen=True)
class Usual:
    """How the weights that a package has for a network want their images."""

    image_size: tuple[int, int]
    """Height and width."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class _Package:
    names: Callable[[], list[str]]
    make: Callable[[str], nn.Module]
    usual: Callable[[str], Usual | None]


def package_in(name: str) -> str | None:
    """The package of a name such as 'torchvision/resnet18'; none of any other name."""
    package = name.partition("/")[0]
    return package if "/" in name and package in PACKAGES else None


def traced_of_package(spec: BackboneSpec) -> tuple[Traced, Make]:
    """A package's network as it was traced, and what builds it again.

    Raises:
        UnknownNameError: the package has no such network.
        SpecError: the package is missing, or the network cannot be built or traced.
    """
    # Options could name weights to fetch or to unpickle, and a stored spec is somebody else's.
    if spec.width is not None or spec.options:
        raise SpecError(
            f"Backbone '{spec.name}' is taken as its package has it: leave 'width' and 'options' "
            "out, or name a function of your own that builds another ('whole')."
        )
    return _traced(spec.name)


def usual_images(name: str) -> Usual | None:
    """How a package's own weights for a network want their images, if it has any.

    Raises:
        UnknownNameError, SpecError: as of `traced_of_package`.
    """
    package, short = _known(name)
    return package.usual(short)


# Looked at alone: what is built of it is a copy. Building a large one takes seconds.
@lru_cache(maxsize=4)
def _traced(name: str) -> tuple[Traced, Make]:
    package, short = _known(name)

    def make() -> nn.Module:
        try:
            with warnings.catch_warnings():  # Of initial weights, which are replaced.
                warnings.simplefilter("ignore")
                return package.make(short)
        except NotImplementedError:
            raise  # Of the meta device, see `on_meta`.
        except Exception as error:
            raise SpecError(
                f"'{name}' cannot be built: {type(error).__name__}: {error}. Use another of its "
                "package's networks."
            ) from error

    network = on_meta(make)
    traced = trace(name, make() if network is None else network)
    if network is not None and traced.constants:
        traced = trace(name, make())  # What its code computes from nothing has values then.
    return traced, make


def _known(name: str) -> tuple[_Package, str]:
    package_name, _, short = name.partition("/")
    package = PACKAGES[package_name]
    names = package.names()
    if short not in names:
        like = [one for one in names if one.startswith(short[:4])] or names
        raise UnknownNameError(f"{package_name} network", short, [*like[:NEAR], "…"])
    return package, short


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise SpecError(
            f"Networks of timm need the package timm, which cannot be imported ({error}): pip "
            "install timm."
        ) from None
    return timm


def _torchvision_models() -> Any:
    from torchvision import models  # Takes as long as torch itself.

    return models


def _torchvision_names() -> list[str]:
    models = _torchvision_models()
    # Those of other kinds would fetch the weights of their backbones.
    names: list[str] = models.list_models(module=models)
    return names


def _torchvision_usual(name: str) -> Usual | None:
    weights = _torchvision_models().get_model_weights(name)
    if not len(weights):
        return None
    does = weights.DEFAULT.transforms()
    (side,) = does.crop_size
    return Usual((side, side), tuple(does.mean), tuple(does.std))


def _timm_usual(name: str) -> Usual | None:
    known = _timm().get_pretrained_cfg(name)
    if known is None:
        return None
    _, height, width = known.input_size
    return Usual((height, width), tuple(known.mean), tuple(known.std))


PACKAGES = {
    "torchvision": _Package(
        names=_torchvision_names,
        make=lambda name: _torchvision_models().get_model(name, weights=None),
        usual=_torchvision_usual,
    ),
    "timm": _Package(
        names=lambda: _timm().list_models(),
        make=lambda name: _timm().create_model(name, pretrained=False),
        usual=_timm_usual,
    ),
}
"""Name to how a package's classifiers of images are listed and built."""
