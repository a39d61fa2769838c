"""A stored network or a module with all that it stands on, as one network to use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modkernel.modules.network import Network
    from modkernel.registry import ModuleRecord, Registry


@dataclass(frozen=True)
class Loaded:
    """A network, ready to compute."""

    title: str
    """As people call it: 'digits (59014a36ec7c)'."""
    chain: tuple[ModuleRecord, ...]
    network: Network


def load(registry: Registry, reference: str) -> Loaded:
    """The network of a reference; a name that both have is the network's.

    Raises:
        NotFoundError, AmbiguousError: no network and no module answers to it, or several do.
        ArtifactError: bytes are missing or altered.
        SpecError: a module names code of a package that is not trusted.
    """
    from modkernel.errors import NotFoundError
    from modkernel.lookup import trusting
    from modkernel.modules.network import assemble

    try:
        network = registry.networks.resolve(reference)
    except NotFoundError:
        pass
    else:
        chain = registry.networks.members(network)
        title = f"{network.name} ({network.short_id})"
        return Loaded(title, chain, registry.networks.load(network))
    try:
        module = registry.modules.resolve(reference)
    except NotFoundError as error:
        raise NotFoundError(f"No network has this name or id. {error}") from None
    chain = registry.modules.chain(module)
    with trusting(registry.settings.trusted_packages):
        assembled = assemble([registry.modules.fetch(record) for record in chain])
    return Loaded(f"{module.name}/{module.version} ({module.short_id})", chain, assembled)
