"""What MLflow's pyfunc and scoring server take and give, for a network of ours.

Pictures come as an array of numbers [N, …], as base64 texts, or as a table with one column of
texts; the scoring server takes them as `{"inputs": [...]}`. Rows come as an array or a table.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from mlflow.types.schema import AnyType, Map

from modkernel.data.given import read_given
from modkernel.errors import ArtifactError, DataError, InterfaceError
from modkernel.modules.network import Network
from modkernel.registry.tracking.artifacts import download, listed, location_of
from modkernel.reuse.answer import BATCH, answering
from modkernel.reuse.moments import ModuleMoments
from modkernel.reuse.moments_file import read_moments
from modkernel.spec import ModuleSpec
from modkernel.system.files import hash_file

FOLDER = "moments"
"""Beside a module, in its MLflow model; see `registry.beside.moments`."""
NAMED = 20
"""Columns that an error names."""


def signature_of(spec: ModuleSpec) -> ModelSignature:
    """What goes in and comes out, as MLflow's pages show it.

    Pictures are a tensor of objects of one dimension, which is what MLflow lets pass in any form.
    Columns that have names are asked for by them, in any order and as any kind of number.
    """
    preprocessing = spec.preprocessing
    if preprocessing.columns is not None:
        columns = Schema([ColSpec(AnyType(), name) for name in preprocessing.columns])
        return ModelSignature(columns, _gives(spec))
    if len(preprocessing.shape) == 3:
        takes = TensorSpec(np.dtype("O"), (-1,))
    else:
        takes = TensorSpec(np.dtype(preprocessing.dtype), (-1, *preprocessing.shape))
    return ModelSignature(Schema([takes]), _gives(spec))


def _gives(spec: ModuleSpec) -> Schema:
    if spec.classes is None:
        return Schema([TensorSpec(np.dtype("float32"), (-1, -1))])
    gives: list[ColSpec | TensorSpec] = [
        ColSpec(DataType.string, "label"),
        ColSpec(DataType.double, "probability"),
        ColSpec(Map(DataType.double), "probabilities"),
        ColSpec(DataType.double, "distance", required=False),
    ]
    return Schema(gives)


class Predictor:
    """What `mlflow.pyfunc` calls: examples in, a table with a row an example out.

    Args:
        network: The network, or hidden modules alone.
        moments: Of its last hidden module, where there are some.
    """

    def __init__(self, network: Network, moments: ModuleMoments | None = None) -> None:
        self.network = network
        self._takes = network.stored[0].spec.preprocessing
        self._answer = None if network.output is None else answering(network, moments)

    def predict(
        self,
        model_input: npt.ArrayLike | pd.DataFrame,
        params: Mapping[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Answers to examples, or a hidden module's kernel features.

        Args:
            model_input: See the top of this file.
            params: Not used.

        Returns:
            Columns label, probability, probabilities (by class) and distance, as of
            `modkernel.reuse.answer.Answer`; without an output module feature_0, feature_1, ….

        Raises:
            MlflowException: an example cannot be read; the message says which and why.
        """
        try:
            examples = read_given(_items(model_input, self._takes.columns), self._takes)
            if self._answer is not None:
                return pd.DataFrame(self._answer(examples))
            with torch.inference_mode():
                rows = torch.cat([self.network.rows(batch) for batch in examples.split(BATCH)])
        except (DataError, InterfaceError) as error:
            # What the scoring server hands on to the client, as its fault.
            raise MlflowException.invalid_parameter_value(str(error)) from error
        names = [f"feature_{i}" for i in range(rows.shape[1])]
        return pd.DataFrame(rows.numpy(), columns=names)


def measured(
    client: MlflowClient, chain: Sequence[Mapping[str, Any]], network: Network
) -> ModuleMoments | None:
    """Moments of a network's last hidden module, from beside that in MLflow's store.

    On the data of the output module, else on its own. Their hash is not known here, so they are
    checked for what they are, and for the module that they name; `modkernel verify` hashes them.

    Args:
        client: MLflow.
        chain: Entries with `module_id` and `model_id`, as an MLmodel file of ours has them.
        network: The network that they make.

    Returns:
        None where there are none, without an output module, or for one on several modules.
    """
    hidden, last = network.top, network.stored[-1]
    if hidden is None:
        return None
    model_id = next((e["model_id"] for e in chain if e["module_id"] == hidden.id), None)
    if model_id is None:
        return None
    with suppress(ArtifactError), tempfile.TemporaryDirectory() as folder:
        place = f"{location_of(client, model_id)}/{FOLDER}"
        there = listed(client, place)
        for stored in (last, hidden):
            name = f"{stored.spec.dataset.fingerprint}.safetensors"
            if name in there:
                path = download(client, f"{place}/{name}", Path(folder))
                moments = read_moments(path, hash_file(path))
                return moments if moments.module_id == hidden.id else None
    return None


def _items(given: Any, columns: Sequence[str] | None) -> Sequence[Any]:
    """One example each; what has names is taken by them.

    Raises:
        DataError: a column is missing.
    """
    if isinstance(given, pd.DataFrame):
        if columns is not None and not isinstance(given.columns, pd.RangeIndex):
            missing = [name for name in columns if name not in given.columns]
            if missing:
                raise DataError(
                    f"There is no column {', '.join(missing[:NAMED])}: give a table with the "
                    f"columns {', '.join(columns[:NAMED])}{', …' * (len(columns) > NAMED)}."
                )
            given = given[list(columns)]
        if given.shape[1] == 1:
            return list(given.iloc[:, 0])
        return list(given.to_numpy())
    array = np.asarray(given)
    if array.ndim == 0:
        return [array[()]]
    # Of objects, as of JSON, arrays are lists again.
    return array.tolist() if array.dtype == object else list(array)
