"""The card of a module: what its version page in MLflow says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from modkernel.lookup import TRUST_VARIABLE, package_of
from modkernel.modules.join import takes_maps
from modkernel.registry.records import ModuleRecord, Named, Uses, needs
from modkernel.registry.tracking.markdown import figure, link, plain, table
from modkernel.spec import (
    HiddenModuleSpec,
    Interface,
    ModuleSpec,
    OutputModuleSpec,
    Projection,
    Shape,
)
from modkernel.training.report import TrainReport

LIMIT_CHARACTERS = 5000
"""Characters that MLflow keeps of a description."""
ASKED = "http://127.0.0.1:8000"
"""Where `modkernel serve-network` listens if it is not told otherwise."""
NAMED_CLASSES = 12
"""Classes that a card names; the others are counted."""
NAMED_ANCESTORS = 8
"""Rows of a card's lineage; those in the middle are counted."""
VIEWS_TOLD = {
    "views": "Pairs of random views: no label of these classes had a part in its training.",
    "views+labels": "Pairs of random views, and pairs of the labels.",
}
BOTH_TOLD = "Pairs of random views, and pairs from a file"
"""What a card says of pairs of views."""
NOWHERE = Uses()
"""Of a module that nothing uses."""


def sentence(name: str, spec: ModuleSpec) -> str:
    """What the module is, in one plain sentence: lists show a description's first line."""
    data = plain(spec.dataset.name)
    if isinstance(spec, OutputModuleSpec):
        count = len(spec.interface.upstream)
        return (
            f"Output module of {name.rpartition('.')[0] or name}: {len(spec.classes)} classes of "
            f"{data}, trained by {spec.output.method} on "
            f"{_labels(spec)}"
            f"{f', on {count} modules side by side' if count > 1 else ''}."
        )
    if spec.kind == "stitch":
        return (
            f"Stitch {name}: a map onto a copy of module {spec.upper_id[:12]} "
            f"({plain(', '.join(spec.blocks))} of {plain(spec.backbone.name)}), fitted to examples "
            f"of {data} without labels."
        )
    blocks = spec.blocks[0] if len(spec.blocks) == 1 else f"{spec.blocks[0]} to {spec.blocks[-1]}"
    if spec.kind == "imported":
        return (
            f"Imported module {name}: {plain(blocks)} of {plain(spec.backbone.name)}, trained "
            f"elsewhere, licence {plain(spec.origin.licence)}."
        )
    return (
        f"Hidden module {name}: {plain(blocks)} of {plain(spec.backbone.name)}, trained on {data} "
        f"to maximise {spec.hidden.objective.name} under the {spec.interface.kernel.name} kernel"
        f"{_tail(spec)}{_start(spec)}"
        f"{'' if spec.together is None else f', {spec.together.text}'}."
    )


def _tail(spec: HiddenModuleSpec) -> str:
    tail = spec.hidden.tail
    if isinstance(tail, Projection):
        return f" on a projection of {tail.projection} units that was thrown away"
    if isinstance(tail, tuple):
        return f" on a tail of {plain(', '.join(tail))} that was thrown away"
    return ""


def _start(spec: HiddenModuleSpec) -> str:
    if spec.hidden.start_from is None:
        return ""
    frozen = spec.hidden.frozen(spec.blocks)
    return (
        f", from the weights of {plain(spec.source or '')} (`{spec.hidden.start_from[:12]}`)"
        f"{f', of which the first {frozen} of {len(spec.blocks)} blocks were kept' * (frozen > 0)}"
    )


def module_card(
    record: ModuleRecord,
    chain: Sequence[ModuleRecord],
    report: TrainReport,
    figures: Iterable[str] = (),
    uses: Uses = NOWHERE,
) -> str:
    """The card as markdown of at most 5,000 characters.

    Args:
        record: The module.
        chain: The modules it stands on, first to last, without itself.
        report: How it was trained.
        figures: Paths of pictures among the artifacts of the module's run.
        uses: What stands on it, and which networks have it.
    """
    spec = record.spec
    parts = [sentence(record.name, spec), f"Module id `{record.id}`."]
    parts += [figure(path, record.run_id) for path in figures]
    parts += [
        "## Measured",
        table(("metric", "value"), [(k, f"{v:.6g}") for k, v in record.metrics.items()]),
        *_classes_tested(report),
        *_worth(report),
        "## Interface",
        table(
            ("", "shape of one example"),
            [
                ("raw data", f"{_shape(spec.preprocessing.shape)} {spec.preprocessing.dtype}"),
                ("takes", f"{_shape(spec.interface.takes)} {spec.interface.dtype}"),
                ("gives", f"{_shape(spec.interface.gives)} {spec.interface.dtype}"),
            ],
        ),
        f"Kernel: {spec.interface.kernel.name}. {_upstream(spec.interface)}",
        "## Lineage",
        _lineage(record, chain),
        *_copied(spec, uses),
        *_uses(uses),
        *_needs(record, chain),
        "## Data",
        _data(spec),
        *_use(record),
        *_training(record, report),
    ]
    return fitted(parts)


def _upstream(interface: Interface) -> str:
    if not interface.joins:
        return "Equal shapes do not suffice: it works on the upstream below and on no other."
    taken = "maps, channels" if takes_maps(interface) else "unit features, each times √weight,"
    return (
        f"It takes the {taken} side by side, of the {len(interface.upstream)} modules that it "
        "stands on, and works on no others."
    )


def standing_on(chain: Sequence[ModuleRecord]) -> dict[str, str]:
    """What each of some modules stands on, as positions among them from 1, by its id.

    Nothing where all stand on the one before them, as most often.
    """
    if not any(one.spec.interface.joins for one in chain):
        return {}
    places = {one.id: position for position, one in enumerate(chain, start=1)}
    return {
        one.id: ", ".join(
            f"{places.get(upstream.id, 'data')}"
            + ("" if upstream.weight == 1 else f" (weight {upstream.weight:g})")
            for upstream in one.spec.interface.upstream
        )
        for one in chain
    }


def fitted(parts: Iterable[str]) -> str:
    """The parts of a card, cut off where MLflow would not take more."""
    spaced: list[str] = []
    for part in parts:
        # MLflow leaves nothing between a table and what comes next.
        if spaced and spaced[-1].startswith("|") and part.startswith(("## ", "![")):
            spaced.append("&nbsp;")
        spaced.append(part)
    card = "\n\n".join(spaced)
    return card if len(card) <= LIMIT_CHARACTERS else card[: LIMIT_CHARACTERS - 2].rstrip() + " …"


def linked(found: Sequence[Named], count: int) -> str:
    """Links to the versions of some things, of which there are so many."""
    names = ", ".join(link(one.name, one.version) for one in found)
    return f"{names} and {count - len(found)} more" if count > len(found) else names


def _uses(uses: Uses) -> Iterator[str]:
    if uses.n_modules:
        yield f"Modules that stand on it: {linked(uses.modules, uses.n_modules)}."
    if uses.n_stitches:
        yield f"Stitches that have a copy of it: {linked(uses.stitches, uses.n_stitches)}."
    if uses.n_networks:
        yield f"Networks that have it: {linked(uses.networks, uses.n_networks)}."


def _copied(spec: ModuleSpec, uses: Uses) -> Iterator[str]:
    if spec.kind == "stitch":
        upper = uses.upper
        shown = "which is no longer stored" if upper is None else link(upper.name, upper.version)
        yield f"It has a copy of module `{spec.upper_id[:12]}`: {shown}."


def _worth(report: TrainReport) -> Iterator[str]:
    found = report.stitch
    if found is None:
        return
    yield "## Worth as a stitch"
    if found.objection is not None:
        yield f"**Kept against advice (--force): {plain(found.objection)}**"
    yield plain(found.text)


def _classes_tested(report: TrainReport) -> Iterator[str]:
    found = report.evaluation
    if found is not None:
        yield plain(f"Worst class {found.worst_class.text}. {found.remarks}")
    elif report.labels_told is not None:
        yield plain(f"{report.labels_told}. No test example has a label.")


def _needs(record: ModuleRecord, chain: Sequence[ModuleRecord]) -> Iterator[str]:
    found = needs((*chain, record))
    if found:
        yield "## Needs from outside"
        yield table(
            ("package", "import path", ""),
            [(package_of(path), f"`{path}`", what) for path, what in found.items()],
        )
        yield f"Its code runs only where {TRUST_VARIABLE} names the package."


def _lineage(record: ModuleRecord, chain: Sequence[ModuleRecord]) -> str:
    below = standing_on((*chain, record))
    rows: list[tuple[str, ...]] = []
    if not below:  # Else each chain has its own, which its first module's page names.
        rows.append(("0", "preprocessing", f"`{record.spec.preprocessing.digest()[:12]}`"))
    rows += [
        (
            str(position),
            _this(member) if member is record else link(member.name, member.version),
            f"`{member.short_id}`",
            *((below[member.id],) if below else ()),
        )
        for position, member in enumerate((*chain, record), start=1)
    ]
    if len(rows) > NAMED_ANCESTORS:
        ends = NAMED_ANCESTORS // 2
        more = ("…", f"{len(rows) - 2 * ends} more", *[""] * (len(rows[0]) - 2))
        rows = [*rows[:ends], more, *rows[-ends:]]
    return table(("position", "module", "id", *(("stands on",) if below else ())), rows)


def _this(record: ModuleRecord) -> str:
    return f"{plain(record.name)} (this module)"


def _data(spec: ModuleSpec) -> str:
    if spec.kind == "imported":
        return (
            f"Not known here. The weights are from a file with the sha256 "
            f"`{spec.origin.weights_sha256}`, licence {plain(spec.origin.licence)}."
        )
    facts = spec.dataset
    shown = ", ".join(plain(name[:40]) for name in facts.classes[:NAMED_CLASSES])
    more = len(facts.classes) - NAMED_CLASSES
    lines = [
        f"{plain(facts.name)}, fingerprint `{facts.fingerprint}`.",
        f"{len(facts.classes)} classes: {shown}{f' and {more} more' if more > 0 else ''}.",
    ]
    if facts.pairs is not None and facts.pairs_fingerprint is None:
        lines.append(VIEWS_TOLD[facts.pairs])
    if facts.unlabelled_fingerprint is not None:
        lines.append(f"Examples without a label {_took_part(spec)}.")
    if facts.pairs_fingerprint is not None:
        told = "Pairs from a file" if facts.pairs is None else BOTH_TOLD
        lines.append(f"{told}, fingerprint `{facts.pairs_fingerprint}`.")
    return " ".join(lines)


def _took_part(spec: ModuleSpec) -> str:
    """What the examples of a set that have no label, where others have one, were for."""
    if spec.kind != "output":
        return "took part by their views"
    given = "may have one in the file" if spec.dataset.labels_fingerprint is not None else ""
    spread = "got labels by spreading" if spec.output.spread_labels else ""
    return ", others ".join(filter(None, (given, spread)))


def _training(record: ModuleRecord, report: TrainReport) -> Iterator[str]:
    if record.kind == "imported":
        return
    memory = report.peak_memory_bytes
    rows = [
        ("examples", str(report.examples)),
        ("parameters", str(report.parameters)),
        ("epochs", str(len(report.history))),
        ("best epoch", str(report.best_epoch)),
        ("seconds", f"{report.seconds:.1f}"),
        ("device", _device(report)),
        ("trained again", _again(report)),
        ("peak memory", "not measured" if memory is None else f"{memory / 2**20:.0f} MiB"),
        ("recipe digest", f"`{report.recipe_digest}`"),
    ]
    yield "## Training"
    yield table(("", "value"), rows)


def _device(report: TrainReport) -> str:
    count = report.threads
    threads = "" if count is None else f", {count} thread{'s' if count > 1 else ''}"
    together = f"{report.devices} × " if report.devices > 1 else ""
    return f"{together}{report.device}, {report.precision}{threads}"


def _again(report: TrainReport) -> str:
    """Whether training it again gives these weights."""
    if report.device.startswith("cuda"):
        return "similar weights, not the same: a GPU adds up in no fixed order"
    counts = "thread count" if report.devices == 1 else "numbers of threads and devices"
    if report.precision == "float32" or report.threads == 1:
        return f"the same weights, where processor model, torch and {counts} are the same"
    return f"nearly always the same weights, where processor model, torch and {counts} are"


def _use(record: ModuleRecord) -> Iterator[str]:
    if record.spec.classes is not None:
        asked = asking(record.spec)
        yield f"Served by `modkernel serve-network {record.short_id}`, it answers `{asked}`."


def asking(spec: ModuleSpec) -> str:
    """The command that asks `modkernel serve-network`, at `ASKED`."""
    if len(spec.preprocessing.shape) == 3:
        given = "-H 'Content-Type: image/png' --data-binary @picture.png"
    else:
        row = "1, 2, …"
        given = f"""-H 'Content-Type: application/json' -d '{{"inputs": [[{row}]]}}'"""
    return f"curl {given} {ASKED}/invocations"


def _labels(spec: OutputModuleSpec) -> str:
    spread = ", spread over examples without one" * spec.output.spread_labels
    if spec.dataset.labels_fingerprint is not None:
        own = "all labels and a file of further ones"
        told = "a file of labels" if spec.dataset.unlabelled_fingerprint is None else own
        return f"{told}{spread}"
    per_class = spec.output.labels_per_class
    if per_class is None:
        return f"all labels{spread}"
    return f"{per_class} label{'s' if per_class > 1 else ''} per class{spread}"


def _shape(shape: Shape) -> str:
    return "×".join(map(str, shape))
