"""Data sets of flows: describe them, remember which one a module was trained on, compare."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow.exceptions import MlflowException
from prefect.logging import get_run_logger

from flows.progress import emit
from modkernel.data import DataPlaces, DatasetInfo, describe_dataset, load_dataset, read_pairs
from modkernel.errors import InterfaceError, SpecError
from modkernel.kernels import make_kernel
from modkernel.objectives import make_objective
from modkernel.pairs import PairSource
from modkernel.spec import DatasetSpec, HiddenSpec
from registry import ModuleRecord, Registry

TAG = "dataset_spec"


def describe(registry: Registry, dataset: DatasetSpec) -> DatasetInfo:
    """What is in a data set; it is fetched if that is allowed and needed.

    Raises:
        DataError: it is missing or unfit.
    """
    return describe_dataset(dataset, _places(registry))


def check_pairs(
    registry: Registry, dataset: DatasetSpec, pairs: str, hidden: Sequence[HiddenSpec]
) -> str:
    """See that a file of pairs can train hidden modules, and return its fingerprint.

    Raises:
        DataError: it cannot be read, or names an example that the data set does not have.
        PairError: no same or no different pair, in training or validation.
    """
    data = load_dataset(dataset, _places(registry))
    part = data.training_part()
    table = read_pairs(pairs, part.ids, dataset.path, data.test.ids)
    if table.left_out:
        text = (
            f"{table.left_out} of {table.left_out + len(table.same)} pairs name an example of the "
            "test part and are left out."
        )
        get_run_logger().warning(text)
        emit({"event": "note", "text": text})
    source = PairSource.from_pairs(len(part), table.i, table.j, table.same)
    objectives = [make_objective(spec.objective, make_kernel(spec.kernel)) for spec in hidden]
    for half in source.split(dataset.validation_fraction, dataset.split_seed):
        half.check(any(objective.needs_same for objective in objectives))
    return table.fingerprint


def remember(registry: Registry, run_id: str, dataset: DatasetSpec) -> None:
    """Write on a module's run which data set it is trained on: its facts do not say where it is."""
    registry.stores.client.set_tag(run_id, TAG, dataset.canonical_json())


def recall(registry: Registry, record: ModuleRecord) -> DatasetSpec:
    """The data set that a stored module was trained on.

    Raises:
        SpecError: it was not trained by a flow, or its run is gone.
    """
    client = registry.stores.client
    try:
        run = None if record.run_id is None else client.get_run(record.run_id)
    except MlflowException:
        run = None
    text = None if run is None else run.data.tags.get(TAG)
    if text is None:
        raise SpecError(
            f"It is not known where the data of module {record.short_id} ({record.name}) is: "
            "give 'dataset'."
        )
    return DatasetSpec.model_validate_json(text)


def for_chain(
    registry: Registry, top: ModuleRecord, dataset: DatasetSpec | None
) -> tuple[DatasetSpec, DatasetInfo]:
    """The data to train on above a stored module, by default what it was trained on itself.

    Raises:
        SpecError: no data set is given, and it is not known where the module's own is.
        DataError: the data is missing or unfit.
        InterfaceError: the module's chain does not take it.
    """
    dataset = dataset or recall(registry, top)
    info = describe(registry, dataset)
    check_fits(info, top)
    return dataset, info


def check_fits(info: DatasetInfo, record: ModuleRecord) -> None:
    """See that a stored module's chain takes the examples of a data set.

    Raises:
        InterfaceError: another shape, number of channels or type.
    """
    found, wanted = info.preprocessing, record.spec.preprocessing
    if (found.shape, found.dtype) == (wanted.shape, wanted.dtype):
        return
    remedy = "choose another module or data set"
    if len(wanted.shape) == 3 and found.dtype == wanted.dtype:
        channels, height, _ = wanted.shape
        remedy = f"set dataset.image_size: {height} and dataset.channels: {channels}, or {remedy}"
    raise InterfaceError(
        f"Module {record.short_id} ({record.name}) stands on examples of shape "
        f"{list(wanted.shape)}, {wanted.dtype}, but those of data set '{info.name}' have shape "
        f"{list(found.shape)}, {found.dtype}: {remedy}."
    )


def _places(registry: Registry) -> DataPlaces:
    settings = registry.settings
    return DataPlaces(root=settings.data_root, cache=settings.cache_dir, download=settings.download)
