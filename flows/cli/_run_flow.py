"""Running a flow from a command, and showing what it gave."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from modkernel.errors import StoppedError
from modkernel.flows.cli._output import err, out, percent, print_json, print_table, size

if TYPE_CHECKING:
    from modkernel.flows.runtime.results import ModuleResult, NetworkResult
    from modkernel.training.report import OutputEvaluation

Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Show Prefect's log, too, on stderr.")
]
Devices = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Devices of this machine that train one hidden module together, as the setting "
        "devices_per_module says it for all commands.",
    ),
]


@contextmanager
def flow_running(verbose: bool, devices: int | None = None) -> Iterator[None]:
    """Within the block flows may be imported and run; their progress is on the terminal.

    Args:
        verbose: show Prefect's log, too.
        devices: that train one hidden module together; the setting's if left out.

    Raises:
        SettingsError: the home cannot be written, or a setting is wrong.
        ServiceError: there is no Prefect server where PREFECT_API_URL says.
        StoppedError: the flow was cancelled in Prefect.
    """
    from modkernel.flows.cli._progress import progress
    from modkernel.flows.runtime.interrupts import signals_interrupt
    from modkernel.flows.runtime.shared import fork_server
    from modkernel.flows.servers.prefect_env import prepare_prefect
    from modkernel.flows.servers.temporary import require_server
    from modkernel.registry import Settings

    if devices is not None:
        os.environ["MODKERNEL_DEVICES_PER_MODULE"] = str(devices)  # What the flow reads, too.
    settings = Settings()
    settings.ensure_home()
    fork_server().start()  # Its children's imports load while Prefect and its server do.
    prepare_prefect(settings, quiet=not verbose)
    with signals_interrupt():
        require_server(settings)
        from prefect.exceptions import CancelledRun

        with progress(err):
            try:
                yield
            except CancelledRun as cancelled:
                raise StoppedError(str(cancelled)) from None


def show_network(result: NetworkResult, json: bool) -> None:
    """A network, as JSON or as tables."""
    if json:
        print_json(result.model_dump(mode="json"))
    else:
        print_network(result)


def print_network(result: NetworkResult) -> None:
    """A table of a network's modules and one of its accuracy."""
    print_modules(f"{result.name} ({result.id[:12]})", result.modules)
    value = result.evaluation
    if value is None:
        if result.modules[-1].kind == "output":
            print_unjudged(result.modules[-1].labels_told)
        return
    print_table(
        "",
        ("", "test accuracy ", "balanced ", "worst class"),
        [
            (
                f"{value.labels_name}, mean of {value.draws} draw(s)",
                percent(value.accuracy_mean),
                percent(value.balanced_accuracy_mean),
                value.worst_class_mean.text,
            ),
            (
                f"{value.labels_name}, least",
                percent(value.accuracy_min),
                percent(value.balanced_accuracy_min),
                "",
            ),
            (
                f"{value.labels_name}, the stored output module",
                percent(value.accuracy),
                percent(value.balanced_accuracy),
                value.worst_class.text,
            ),
            (
                "all labels",
                percent(value.accuracy_all_labels),
                percent(value.balanced_accuracy_all_labels),
                value.worst_class_all_labels.text,
            ),
        ],
    )
    print_remarks(value)


def print_unjudged(labels_told: str | None) -> None:
    """Say that a network's accuracy is not known, and how many labels it had, if that is known."""
    labels = f"{labels_told}. " if labels_told else ""
    out.print(f"{labels}Its accuracy is not known: no test example has a label.", soft_wrap=True)


def print_remarks(value: OutputEvaluation) -> None:
    """Say what to know of the accuracies: which classes and examples they tell nothing of."""
    if value.remarks:
        out.print(value.remarks, soft_wrap=True)


def print_modules(title: str, modules: Sequence[ModuleResult]) -> None:
    """A table of modules, trained or reused."""
    print_table(
        title,
        ("module", "version ", "id", "", "seconds ", "objective ", "memory "),
        [
            (
                module.name,
                str(module.version or ""),
                module.id[:12],
                "reused" if module.reused else "trained",
                f"{module.seconds:.1f}",
                "" if module.objective is None else f"{module.objective:.4f}",
                "" if module.peak_memory_bytes is None else size(module.peak_memory_bytes),
            )
            for module in modules
        ],
    )
