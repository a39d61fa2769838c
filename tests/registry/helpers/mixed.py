"""A network of all kinds: a module trained here, an imported one and a stitch, joined."""

from __future__ import annotations

from pathlib import Path

import torch

from modkernel.lookup import trusting
from modkernel.modules.stitch import Stitch, make_map
from modkernel.modules.stored import StoredModule, build_module, write_module
from modkernel.registry import NetworkRecord, Registry, Settings
from modkernel.registry.bundles.elsewhere import Images, TakenIn, import_network
from modkernel.spec import ImportedModuleSpec, Interface, StitchModuleSpec, StitchSpec
from tests.modkernel.helpers.stored_examples import FACTS, store_joined_output
from tests.modkernel.test_imported import TINY, Tiny, saved
from tests.registry.helpers.examples import EVALUATION, Examples, store_one

PACKAGE = "tests"
"""Whose code the imported module and the copy in the stitch name."""


def trusting_settings(settings: Settings) -> Settings:
    """Settings that trust the code of the imported network."""
    return settings.model_copy(update={"trusted_packages": (PACKAGE,)})


def take_in(registry: Registry, folder: Path) -> TakenIn:
    """Import a small network, cut into two modules."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        path = saved(Tiny(), folder / "tiny.safetensors")
    return import_network(
        registry,
        TINY.name,
        "far",
        ("stem", "mean"),
        weights=path,
        licence="mit",
        images=Images((8, 8), (0.5,), (0.25,)),
    )


def stitch_of(folder: Path, lower: StoredModule, upper: StoredModule) -> StoredModule:
    """A copy of an imported module on another one, by a map of random weights."""
    spec = upper.spec
    assert isinstance(spec, ImportedModuleSpec)
    with trusting([PACKAGE]), torch.random.fork_rng():
        torch.manual_seed(1)
        gives = lower.spec.interface.gives
        made = Stitch(make_map(gives, spec.interface.takes), build_module(upper))
    interface = Interface(
        upstream=lower.id,
        takes=gives,
        gives=spec.interface.gives,
        kernel=spec.interface.kernel,
    )
    stitched = StitchModuleSpec(
        interface=interface,
        dataset=FACTS,
        seed=0,
        preprocessing=lower.spec.preprocessing,
        upper=spec,
        upper_id=upper.id,
        stitch=StitchSpec(),
    )
    return write_module(folder, stitched, made.state_dict())


def store_mixed(registry: Registry, folder: Path) -> NetworkRecord:
    """An output module on an imported module and, beside it, a stitch on one trained here."""
    examples = Examples(folder / "trained")
    stem, top = (registry.modules.fetch(one) for one in take_in(registry, folder).modules)
    own = examples.first()
    store_one(registry, own, "own.hidden-1")
    stitch = stitch_of(folder / "stitch", own, top)
    store_one(registry, stitch, "own.stitch")
    output, _ = store_joined_output(folder / "output", (stem, stitch), (1.0, 2.0))
    last = store_one(registry, output, "mixed.output")
    ids = [record.id for record in registry.modules.chain(last)]
    return registry.networks.add("mixed", ids, EVALUATION)
