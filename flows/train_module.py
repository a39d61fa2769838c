"""The flow that trains one hidden module on a stored one, on several, or on the data."""

from __future__ import annotations

from modkernel.errors import SpecError
from modkernel.flows.plans import datasets
from modkernel.flows.plans.adapting import (
    adapted,
    below_first,
    block_before,
    is_first,
    sources_of,
)
from modkernel.flows.plans.checks import check_is_hidden
from modkernel.flows.plans.steps import Below, Plan, hidden_step
from modkernel.flows.runtime.events import Planned, emit
from modkernel.flows.runtime.form_flow import form_flow
from modkernel.flows.runtime.results import ModuleResult, tell_kept_name
from modkernel.flows.runtime.run_names import named
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.specs.composition import References, Weights
from modkernel.flows.tasks.train_plan import train_in_order
from modkernel.plan import check_hidden, plan_hidden
from modkernel.spec import BackboneSpec, DatasetSpec, HiddenSpec, Name

HIDDEN = HiddenSpec()
"""What a form shows, and what is trained where nothing else is asked for."""


@form_flow("train-module", flow_run_name=named("{name}"))
def train_module(
    name: Name,
    hidden: HiddenSpec = HIDDEN,
    upstream: References | None = None,
    dataset: DatasetSpec | None = None,
    backbone: BackboneSpec | None = None,
    pairs: str | None = None,
    seed: int = 0,
    weights: Weights | None = None,
) -> ModuleResult:
    """Train one hidden module on a stored hidden module, or on several, which stay as they are.

    On several it takes their features side by side; where all give maps of one size, and the
    backbone is no mlp, their maps.

    Args:
        name: registered name, such as 'digits.hidden-3'.
        hidden: where the module ends and how it is trained.
        upstream: id, name, NAME@ALIAS or NAME/VERSION of the module to stand on, or several; left
            out, the module is a first one and stands on the data, or on what that stands on which
            it starts from.
        dataset: what to train on; that of the first upstream, or of the module that it starts from,
            if left out.
        backbone: where the blocks are from; the upstream's backbone if left out, whose blocks
            after the upstream's last one are then used. On several, it is named. Of a module that
            starts from another, that one's.
        pairs: what to train on in place of class labels: views, a file of pairs, or both.
        seed: of the weights and the order of the data.
        weights: of several upstreams, each one's share; 1 each if left out.

    Raises:
        ModkernelError: before anything is trained, where it cannot be; later, what ended it.
    """
    fork_server().start()
    registry = open_registry()
    (source,) = sources_of(registry, [hidden])
    if source is not None:
        spec = check_is_hidden(source)
        backbone = backbone or spec.backbone
        hidden = hidden.changed(until=hidden.until or spec.blocks[-1])
        if upstream is None and not is_first(source):
            upstream = spec.interface.stands_on
            if spec.interface.joins:
                weights = tuple(one.weight for one in spec.interface.upstream)
    if upstream is None:
        if dataset is None:
            dataset = DatasetSpec() if source is None else datasets.recall(registry, source)
        from_backbone = backbone or BackboneSpec()
        info = datasets.describe(registry, dataset)
        below, start_after = below_first(info, source), None
    else:
        tops = [registry.modules.resolve(reference) for reference in upstream]
        own = [check_is_hidden(top).backbone for top in tops]
        if backbone is None and len(tops) > 1:
            raise SpecError(
                f"{len(tops)} modules side by side have no blocks left to go on with: name a "
                "'backbone', whose blocks are set on top of them."
            )
        from_backbone = backbone or own[0]
        below = Below.of_records(tops, weights, maps=from_backbone.name != "mlp")
        dataset, info = datasets.for_join(registry, tops, dataset)
        start_after = below.last_block if backbone is None else None
    if source is not None:
        start_after = block_before(registry, source)
    plans = plan_hidden(from_backbone, [hidden], below.gives, start_after, False, "hidden")
    (planned,) = adapted(plans, [source])
    check_hidden([hidden], info, pairs, where="hidden")
    known = datasets.check_pairs(registry, dataset, info, pairs, [planned.hidden])
    step = hidden_step(name, planned, known, seed, dataset, pairs)
    emit(Planned((name,)))
    (result,) = train_in_order(Plan(below, (step,)), None)
    tell_kept_name(result, name)
    return result
