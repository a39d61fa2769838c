"""The card of a network: what its version page in MLflow says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from modkernel.registry.records import ModuleRecord, NetworkRecord, Uses
from modkernel.registry.tracking.cards import asking, fitted, linked, standing_on
from modkernel.registry.tracking.markdown import figure, link, plain, table
from modkernel.registry.tracking.tags import facts_of, labels_of, objective_of
from modkernel.spec import OutputModuleSpec
from modkernel.training.report import OutputEvaluation

NAMED_MODULES = 10
"""Modules that a card names; those in the middle are counted."""
NAMED_CLASSES = 12
"""Classes that a card names; the others are counted."""


def network_sentence(network: NetworkRecord, modules: Sequence[ModuleRecord]) -> str:
    """What the network is, in one plain sentence: lists show a description's first line."""
    top = modules[-1].spec
    hidden = len(modules) - isinstance(top, OutputModuleSpec)
    facts = facts_of(modules)
    parts = [
        f"Network {network.name}: {hidden} hidden module{'s' * (hidden != 1)} of "
        f"{plain(facts.get('backbone', 'no backbone'))}"
    ]
    if isinstance(top, OutputModuleSpec):
        several = len(top.interface.upstream)
        parts.append(
            f" and an output module{f' on {several} of them side by side' * top.interface.joins} "
            f"for {len(top.classes)} classes of {plain(top.dataset.name)}"
        )
    else:
        parts.append(f", trained on {plain(top.dataset.name)}, without an output module")
    if network.evaluation is not None:
        parts.append(f"; test accuracy {network.evaluation.accuracy:.2%}")
    return "".join(parts) + "."


def network_card(
    network: NetworkRecord,
    modules: Sequence[ModuleRecord],
    shared: Mapping[str, Uses],
    figures: Iterable[tuple[str, str]] = (),
) -> str:
    """The card as markdown of at most 5,000 characters.

    Args:
        network: The network, which has a version unless it is just being made.
        modules: Its modules, first to last.
        shared: What uses each module, by its id.
        figures: Pictures, as run and path among its artifacts.
    """
    parts = [
        network_sentence(network, modules),
        f"Network id `{network.id}`.",
        "## Modules",
        _modules(modules),
        "It holds no copies: these versions are fetched and checked when it is loaded.",
        *_sharing(network, modules, shared),
    ]
    if network.evaluation is not None:
        parts += ["## Evaluation", _evaluation(network.evaluation)]
    parts += [
        *(figure(path, run_id) for run_id, path in figures),
        "## Data",
        _data(modules[-1]),
        "## Use",
        _use(network, modules[-1]),
    ]
    return fitted(parts)


def run_note(network: NetworkRecord, modules: Sequence[ModuleRecord]) -> str:
    """What the page of a network's run says: all its modules, reused ones too."""
    return fitted([network_sentence(network, modules), _modules(modules)])


def _evaluation(found: OutputEvaluation) -> str:
    rows = [
        ("accuracy", f"{found.accuracy:.2%}"),
        ("balanced accuracy", f"{found.balanced_accuracy:.2%}"),
        ("worst class", plain(found.worst_class.text)),
        ("labels", plain(found.labels_told)),
    ]
    if found.draws > 1:
        rows.append(
            (
                f"{found.draws} draws of labels",
                f"mean {found.accuracy_mean:.2%}, from {found.accuracy_min:.2%} to "
                f"{found.accuracy_max:.2%}",
            )
        )
    rows.append(("accuracy with all labels", f"{found.accuracy_all_labels:.2%}"))
    shown = table(("on the test part", ""), rows)
    return f"{shown}\n\n{plain(found.remarks)}" if found.remarks else shown


def _modules(modules: Sequence[ModuleRecord]) -> str:
    below = standing_on(modules)
    rows = [
        (
            str(position),
            link(module.name, module.version),
            _what(module),
            f"`{module.short_id}`",
            *((below[module.id],) if below else ()),
        )
        for position, module in enumerate(modules, start=1)
    ]
    if len(rows) > NAMED_MODULES:
        ends = NAMED_MODULES // 2
        more = ("…", f"{len(rows) - 2 * ends} more", *[""] * (len(rows[0]) - 2))
        rows = [*rows[:ends], more, *rows[-ends:]]
    return table(("position", "module", "", "id", *(("stands on",) if below else ())), rows)


def _what(module: ModuleRecord) -> str:
    spec = module.spec
    if isinstance(spec, OutputModuleSpec):
        labels = labels_of(spec)
        return f"{spec.output.method}, {'all labels' if labels == 'all' else f'labels: {labels}'}"
    blocks = spec.blocks[0] if len(spec.blocks) == 1 else f"{spec.blocks[0]} to {spec.blocks[-1]}"
    return f"{plain(blocks)}, {objective_of(spec)}"


def _sharing(
    network: NetworkRecord, modules: Sequence[ModuleRecord], shared: Mapping[str, Uses]
) -> Iterable[str]:
    """One line for each run of modules that the same networks have."""
    groups: list[tuple[list[int], str]] = []
    for position, module in enumerate(modules, start=1):
        uses = shared[module.id]
        others = [one for one in uses.networks if one.id != network.id]
        # Their number changes with every network that is added: the module's own page has it.
        more = uses.n_networks > len(uses.networks)
        text = linked(others, len(others)) + (" and others" if more else "")
        if groups and groups[-1][1] == text:
            groups[-1][0].append(position)
        else:
            groups.append(([position], text))
    lines = [
        f"- {_positions(positions)} {'is' if len(positions) == 1 else 'are'} also in {text}"
        for positions, text in groups
        if text
    ]
    if lines:
        yield "## Shared with other networks"
        yield "\n".join(lines[:NAMED_MODULES])


def _positions(found: Sequence[int]) -> str:
    if len(found) == 1:
        return f"Module {found[0]}"
    return f"Modules {found[0]} to {found[-1]}"


def _data(top: ModuleRecord) -> str:
    facts = top.spec.dataset
    names = top.spec.classes or facts.classes
    shown = ", ".join(plain(name[:40]) for name in names[:NAMED_CLASSES])
    more = len(names) - NAMED_CLASSES
    preprocessing = top.spec.preprocessing
    return (
        f"{plain(facts.name)}, fingerprint `{facts.fingerprint}`. {len(names)} classes: "
        f"{shown}{f' and {more} more' if more > 0 else ''}. One example is "
        f"{'×'.join(map(str, preprocessing.shape))}, {preprocessing.dtype}."
    )


def _use(network: NetworkRecord, top: ModuleRecord) -> str:
    reference = f"models:/{network.name}/{network.version or 'VERSION'}"
    lines = [
        "In Python, with MLflow's address in `MLFLOW_TRACKING_URI`:",
        "```python\nfrom modkernel.registry.flavor import load_model\n"
        f'network = load_model("{reference}")\n```',
    ]
    if isinstance(top.spec, OutputModuleSpec):
        lines += [
            "In a terminal, to predict; to serve it, and to ask that server; or MLflow's server:",
            f"```sh\nmodkernel predict {network.short_id} IMAGE...\n"
            f"modkernel serve-network {network.short_id}\n{asking(top.spec)}\n"
            f"mlflow models serve -m {reference} --env-manager local\n```",
        ]
    return "\n\n".join(lines)
