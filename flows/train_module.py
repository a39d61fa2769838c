"""The flow that trains one hidden module on a stored one, or on the data."""

from __future__ import annotations

from prefect import flow

from modkernel.errors import InterfaceError, PairError
from modkernel.flows.plans import datasets
from modkernel.flows.results import ModuleResult
from modkernel.flows.runtime.events import emit
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.tasks.train import train_stored_module
from modkernel.plan import facts, plan_hidden
from modkernel.spec import BackboneSpec, DatasetSpec, HiddenModuleSpec, HiddenSpec, Name

HIDDEN = HiddenSpec()


@flow(name="train-module", flow_run_name="{name}", persist_result=False)
def train_module(
    name: Name,
    hidden: HiddenSpec = HIDDEN,
    upstream: str | None = None,
    dataset: DatasetSpec | None = None,
    backbone: BackboneSpec | None = None,
    pairs: str | None = None,
    seed: int = 0,
) -> ModuleResult:
    """Train one hidden module on a stored hidden module, which stays as it is.

    Args:
        name: registered name, such as 'digits.hidden-3'.
        hidden: where the module ends and how it is trained.
        upstream: id, name, NAME@ALIAS or NAME/VERSION of the module to stand on; left out, the
            module is a first one and stands on the data.
        dataset: what to train on; the upstream's data set if left out.
        backbone: where the blocks are from; the upstream's backbone if left out, whose blocks
            after the upstream's last one are then used.
        pairs: file of pairs to train on in place of class labels.
        seed: of the weights and the order of the data.

    Raises:
        ModkernelError: before anything is trained, where it cannot be; later, what ended it.
    """
    fork_server().start()
    registry = open_registry()
    below = None if upstream is None else registry.modules.resolve(upstream)
    if below is None:
        dataset, backbone = dataset or DatasetSpec(), backbone or BackboneSpec()
        info = datasets.describe(registry, dataset)
        preprocessing, under = info.preprocessing, info.preprocessing.id
        (step,) = plan_hidden(backbone, [hidden], preprocessing.shape, to_end=False)
    else:
        if not isinstance(below.spec, HiddenModuleSpec):
            raise InterfaceError(
                f"'{upstream}' is an output module, on which none can stand: name the hidden "
                f"module {below.spec.interface.upstream[:12]} under it."
            )
        dataset, info = datasets.for_chain(registry, below, dataset)
        preprocessing, under = below.spec.preprocessing, below.id
        start_after = below.spec.blocks[-1] if backbone is None else None
        (step,) = plan_hidden(
            backbone or below.spec.backbone,
            [hidden],
            below.spec.interface.gives,
            start_after,
            to_end=False,
        )
    if pairs is None and not info.labelled:
        raise PairError(f"Data set '{info.name}' has no class labels: give a file of 'pairs'.")
    fingerprint = pairs and datasets.check_pairs(registry, dataset, pairs, [hidden])
    module = step.spec(under, preprocessing, facts(info, fingerprint), seed)
    emit({"event": "plan", "modules": [name]})
    return train_stored_module.submit(name, module, dataset, pairs).result()
