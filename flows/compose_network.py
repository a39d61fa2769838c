"""The flow that makes a network of stored hidden modules and a new output module."""

from __future__ import annotations

import time
from typing import Any

from modkernel.errors import NotFoundError, SpecError
from modkernel.flows.plans.composition import plan_composition
from modkernel.flows.plans.steps import Below, Plan, output_step
from modkernel.flows.runtime.events import Note, emit
from modkernel.flows.runtime.form_flow import form_flow
from modkernel.flows.runtime.results import NetworkResult
from modkernel.flows.runtime.run_names import named
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.servers.followers import check_can_follow, follow_alias
from modkernel.flows.specs.composition import Aligned, References, Weights
from modkernel.flows.tasks.train_plan import train_network_of
from modkernel.flows.tasks.weigh import weighed
from modkernel.lookup import is_import_path
from modkernel.registry import Registry
from modkernel.spec import DatasetSpec, Name, OutputSpec

OUTPUT = OutputSpec()
"""What a form shows, and what is trained where nothing else is asked for."""


@form_flow("compose-network", flow_run_name=named("{name}"))
def compose_network(
    name: Name,
    hidden: References,
    dataset: DatasetSpec | None = None,
    output: OutputSpec = OUTPUT,
    seed: int = 0,
    labels: str | None = None,
    follow: bool = False,
    weights: Weights | Aligned | None = None,
) -> NetworkResult:
    """Make a network of stored hidden modules, with all that they stand on, and train its output.

    Of several modules, the output module takes the features side by side: the sum of their kernels.
    References are resolved once: a later promotion does not change the network. Where it is to
    follow an alias that moves meanwhile, it is made once more.

    Args:
        name: of the network.
        hidden: id, name, NAME@ALIAS or NAME/VERSION of a stored hidden module, or several.
        dataset: what the output module tells apart; the first hidden module's data if left out.
        output: how the output module is trained, and on how many labels.
        seed: of the label draws and the order of the data.
        labels: CSV file of labels (id, class) that the output module is trained on; a
            data set's own count beside it only where some of its examples have none. See 'modkernel
            labels suggest'.
        follow: compose it again whenever the alias of `hidden` moves, as long as the automation is
            there that Prefect's page shows.
        weights: of several modules, each one's share in the sum of their kernels; 'aligned': those
            by which the sum tells the classes of held-out examples apart best, without modules that
            add nothing; 1 each if left out.

    Raises:
        ServiceError: it is to follow, and nothing serves this flow.
        SpecError: a file of labels and a budget of labels, weights that are not one a module, or
            several modules that are to follow an alias.
        DataError, ClassError: the file of labels is wrong.
        InterfaceError: a module does not take the data, or is no hidden module, or several cannot
            stand side by side.
        ScoreError: no weights can be told from the held-out examples.
        ModkernelError: the reference or the data are wrong; later, what ended the training.
    """
    began = time.perf_counter()
    if follow:
        if dataset is not None and is_import_path(dataset.name):
            raise SpecError(
                f"A network on '{dataset.name}' cannot follow an alias: a form would make it, "
                "which names no code."
            )
        if len(hidden) > 1:
            raise SpecError(
                f"A network on {len(hidden)} modules follows no alias: compose it on one, or "
                "schedule the composition ('modkernel deploy'), which looks up all of them anew."
            )
        check_can_follow(hidden[0], compose_network.name)
    fork_server().start()
    registry = open_registry()

    def composed() -> tuple[str, NetworkResult]:
        """Of what the references mean now: the first module's id, and the network."""
        found = plan_composition(registry, hidden, dataset, output, labels, weights)
        tops, below = found.tops, found.below
        if isinstance(weights, str):
            tops, chosen = weighed(registry, tops, found.dataset, found.info)
            below = Below.of_records(tops, chosen)
        step = output_step(
            f"{name}.output",
            output,
            found.info,
            seed,
            found.dataset,
            labels=labels,
            given=found.labels,
            weights=weights if isinstance(weights, str) else None,
            unlabelled=found.unlabelled,
        )
        kept = registry.modules.joined_chain([top.id for top in tops])
        plan = Plan(below, (step,), kept=kept)
        recipe = f"compose {step.spec_on(below).digest()}"
        return found.tops[0].id, train_network_of(registry, name, plan, recipe, began)

    top, result = composed()
    if follow:
        parameters = as_filled_in(name, hidden[0], dataset, output, seed, labels)
        told = follow_alias(name, hidden[0], compose_network.name, parameters)
        emit(Note(f"Prefect's automation '{told}' composes it again when the alias moves."))
        # What was told of it before there was the automation started nothing.
        if _means_now(registry, hidden[0]) not in (top, None):
            emit(Note(f"{hidden[0]} moved meanwhile: it is composed again at once."))
            _, result = composed()
    return result


def _means_now(registry: Registry, alias: str) -> str | None:
    """Id of the module that an alias means; none where it was removed."""
    try:
        return registry.modules.resolve(alias).id
    except NotFoundError:
        return None


def as_filled_in(
    name: str,
    hidden: str,
    dataset: DatasetSpec | None,
    output: OutputSpec,
    seed: int,
    labels: str | None,
) -> dict[str, Any]:
    """The parameters as a person fills them into the flow's form, which Prefect's server checks."""
    values: dict[str, Any] = {"name": name, "hidden": hidden, "seed": seed, "labels": labels}
    advanced: dict[str, Any] = {}
    for part, spec, short in (
        ("dataset", dataset, {"name": "dataset", "path": "path"}),
        ("output", output, {"method": "method", "labels_per_class": "labels_per_class"}),
    ):
        if spec is None:
            continue
        said = spec.model_dump(mode="json", exclude_unset=True)
        values |= {short[field]: getattr(spec, field) for field in short}
        rest = {field: value for field, value in said.items() if field not in short}
        if rest:
            advanced[part] = rest
    # The server refuses a null where it knows a list of choices.
    return {key: value for key, value in (values | {"advanced": advanced}).items() if value}
