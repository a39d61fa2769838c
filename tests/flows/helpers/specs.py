"""Small networks on digits."""

from __future__ import annotations

from zlib import crc32

from modkernel.spec import BackboneSpec, HiddenSpec, KernelSpec, NetworkSpec, OutputSpec, Recipe

RELU = KernelSpec(name="relu")


def hidden(epochs: int = 1, until: str | None = None) -> HiddenSpec:
    return HiddenSpec(
        until=until, kernel=RELU, recipe=Recipe(epochs=epochs, batch_size=256, learning_rate=0.05)
    )


def tiny(name: str = "tiny", epochs: tuple[int, ...] = (1, 1), seed: int = 0) -> NetworkSpec:
    """Two hidden modules of one layer each, and an output module on one label per class."""
    return NetworkSpec(
        name=name,
        backbone=BackboneSpec(name="mlp", width=16, depth=len(epochs)),
        hidden=tuple(hidden(count) for count in epochs),
        output=OutputSpec(
            labels_per_class=1, draws=3, minimum_steps=5, recipe=Recipe(epochs=2, optimizer="adam")
        ),
        seed=seed,
    )


def endless(name: str) -> NetworkSpec:
    """A network whose first module trains for hours: another module for every name."""
    spec = tiny(name, seed=crc32(name.encode()))
    first, *rest = spec.hidden
    slow = first.changed(recipe=first.recipe.changed(epochs=1_000_000))
    return spec.changed(hidden=(slow, *rest))
