"""The flow that sets a stored module on one that it was not trained on."""

from __future__ import annotations

from modkernel.flows.plans import datasets
from modkernel.flows.plans.stitch import check_parents, stitch_spec
from modkernel.flows.runtime.events import Note, Planned, emit
from modkernel.flows.runtime.form_flow import form_flow
from modkernel.flows.runtime.results import StitchResult, tell_kept_name
from modkernel.flows.runtime.run_names import named
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.tasks.train import train_stored_module
from modkernel.spec import DatasetSpec, Name, StitchSpec

STITCH = StitchSpec()
"""What a form shows, and how it is fitted where nothing else is asked for."""


@form_flow("stitch-modules", flow_run_name=named("{name}"))
def stitch_modules(
    name: Name,
    lower: str,
    upper: str,
    dataset: DatasetSpec | None = None,
    stitch: StitchSpec = STITCH,
    seed: int = 0,
    force: bool = False,
) -> StitchResult:
    """Make a stored module of a map and a copy of UPPER, which stands on LOWER.

    The map is fitted to unlabelled examples so that UPPER's last features come out as they do
    above its own upstream. The module is refused if it is not worth storing: see docs/reuse.md.

    Args:
        name: registered name of the new module.
        lower: id, name, NAME@ALIAS or NAME/VERSION of the hidden module that it stands on.
        upper: likewise, of the hidden module that it has a copy of.
        dataset: whose training examples it is fitted to; LOWER's data set if left out.
        stitch: how it is fitted.
        seed: of the choice and the order of the examples.
        force: store it even if it is not worth it; its card says so.

    Raises:
        InterfaceError: the two cannot be stitched, or do not take the data.
        StitchError: it is not worth storing; the message has the figures.
        ModkernelError: references or data are wrong; later, what ended the fit.
    """
    fork_server().start()
    registry = open_registry()
    registry.promotions.sync_named((lower, upper))
    below, copied = registry.modules.resolve(lower), registry.modules.resolve(upper)
    check_parents(below, copied)
    dataset, info = datasets.for_join(registry, [below, copied], dataset)
    spec = stitch_spec(below, copied, info, stitch, seed)
    emit(Planned((name,)))
    task = train_stored_module.with_options(name=name)
    made = task.submit(name, spec, dataset, force=force).result()
    tell_kept_name(made, name)
    figures = registry.modules.report(registry.modules.resolve(made.id)).stitch
    if figures is not None and figures.objection is not None:
        emit(Note(f"{made.name} is kept though it is not worth it: {figures.objection}"))
    return StitchResult(**dict(made), stitch=figures)
