"""MLflow flavor 'modkernel': safetensors, JSON and the names of the modules underneath.

A stored model holds one module. The chain that it stands on is named in its configuration by
MLflow model id and sha256 and fetched from the tracking server when the model is loaded, so every
module's bytes are kept once. The ids of the modules chain as commits do: a chain that assembles is
the chain that the module was trained on, whoever wrote the configuration.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from mlflow import MlflowClient
from mlflow.models import Model
from mlflow.models.model import MLMODEL_FILE_NAME
from pydantic import BaseModel, Field, ValidationError

from modkernel.errors import ArtifactError
from modkernel.lookup import trusting
from modkernel.modules.network import Network, assemble
from modkernel.modules.stored import SPEC_FILE, WEIGHTS_FILE, StoredModule, read_module
from modkernel.registry.records import ModuleRecord, NetworkRecord, network_id
from modkernel.registry.settings import Settings
from modkernel.registry.tracking.artifacts import (
    BESIDE,
    FILES,
    FLAVOR,
    MODEL_FILES,
    NETWORK_FILES,
    check_listed,
    download,
    fetch_module,
    refuse_foreign,
)
from modkernel.registry.tracking.scoring import Predictor, measured, signature_of
from modkernel.spec import ModuleSpec
from modkernel.system.files import hash_file

PACKAGES = ("modkernel", "mlflow", "torch", "torchvision", "numpy", "pydantic", "safetensors")
PYFUNC = "python_function"
OUR_CODE = {"loader_module": __name__, "env": {"virtualenv": "python_env.yaml"}}
"""What an MLmodel file of ours says of the code that serves it; `code` stands in none."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Pinned(BaseModel):
    """A module of the chain in the stored configuration: what names a folder is a digest."""

    module_id: Sha256
    model_id: str
    weights_sha256: Sha256
    spec_sha256: Sha256


class _Configuration(BaseModel):
    """The flavor's part of an MLmodel file, which anybody may have written."""

    weights_sha256: Sha256
    spec_sha256: Sha256
    chain: tuple[_Pinned, ...]


class _NetworkConfiguration(BaseModel):
    """The same of a network, which holds no module itself."""

    network_id: Sha256
    network: str
    chain: tuple[_Pinned, ...] = Field(min_length=1)


def save_model(
    path: str,
    mlflow_model: Model | None = None,
    *,
    stored: StoredModule,
    chain: Sequence[ModuleRecord] = (),
    written: Callable[[Mapping[str, str]], None] = lambda files: None,
) -> None:
    """Write a module as an MLflow model.

    Args:
        path: Folder to make.
        mlflow_model: MLflow's metadata, filled in and saved here.
        stored: The module.
        chain: The modules it stands on, first to last, without itself.
        written: Called with the sha256 of every file by its name, at the end.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (WEIGHTS_FILE, SPEC_FILE):
        shutil.copyfile(stored.folder / name, folder / name)
    own = {
        "module_id": stored.id,
        "weights_sha256": stored.weights_sha256,
        "spec_sha256": stored.spec_sha256,
    }
    _save(folder, mlflow_model or Model(), stored.spec, own, chain)
    written({name: hash_file(folder / name) for name in MODEL_FILES})


def save_network(
    path: str,
    mlflow_model: Model | None = None,
    *,
    network: NetworkRecord,
    chain: Sequence[ModuleRecord],
    written: Callable[[Mapping[str, str]], None] = lambda files: None,
) -> None:
    """Write a network as an MLflow model: the names and hashes of its modules, not their bytes.

    Args:
        path: Folder to make.
        mlflow_model: MLflow's metadata, filled in and saved here.
        network: The network.
        chain: Its modules, first to last.
        written: Called with the sha256 of every file by its name, at the end.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    own = {"network_id": network.id, "network": network.name}
    _save(folder, mlflow_model or Model(), chain[-1].spec, own, chain)
    written({name: hash_file(folder / name) for name in NETWORK_FILES})


def _save(
    folder: Path,
    model: Model,
    spec: ModuleSpec,
    own: Mapping[str, str],
    chain: Sequence[ModuleRecord],
) -> None:
    """Write what the models of modules and of networks have both.

    Args:
        folder: The model's.
        model: MLflow's metadata.
        spec: Of the module that gives the answer.
        own: The flavor's configuration, without the chain.
        chain: The modules that are fetched when the model is loaded.
    """
    (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements()))
    (folder / "python_env.yaml").write_text(
        f"python: {platform.python_version()}\n"
        "build_dependencies:\n- pip\ndependencies:\n- -r requirements.txt\n"
    )
    model.signature = signature_of(spec)
    # What mlflow.pyfunc.add_to_model writes, without the second that importing it takes.
    model.add_flavor(PYFUNC, **OUR_CODE, python_version=platform.python_version())
    model.add_flavor(
        FLAVOR,
        **own,
        chain=[
            {
                "module_id": record.id,
                "model_id": record.model_id,
                "weights_sha256": record.weights_sha256,
                "spec_sha256": record.spec_sha256,
            }
            for record in chain
        ],
    )
    model.save(str(folder / MLMODEL_FILE_NAME))


def load_model(model_uri: str) -> Network:
    """A network, or the one up to a module, such as 'models:/digits@champion', by our own loader.

    Only the files of the flavor are read. Nothing is unpickled, and no code that the stored
    configuration names is run: a model with other code or files than ours is refused.

    Raises:
        ArtifactError: files are missing or altered, here or in the chain, or are no such model.
        InterfaceError: the named chain is not the one that the module was trained on.
        SpecError: a spec names code of a package that MODKERNEL_TRUSTED_PACKAGES does not.
        StoreError: MLflow does not answer.
    """
    client = MlflowClient()
    check_listed(client, model_uri, f"The MLflow model {model_uri}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _bring(client, model_uri, MLMODEL_FILE_NAME, folder)
        if not _is_network(_configuration(folder)):
            for name in FILES:
                _bring(client, model_uri, name, folder)
        return _network(folder)


def _bring(client: MlflowClient, model_uri: str, name: str, folder: Path) -> None:
    try:
        shutil.move(download(client, f"{model_uri}/{name}", folder), folder / name)
    except ArtifactError as error:
        raise ArtifactError(
            f"MLflow has no {name} of {model_uri}: check the reference ('modkernel modules list')."
        ) from error


@cache
def requirements() -> tuple[str, ...]:
    """The packages that loading needs, pinned to what this process has."""
    pinned = []
    for name in PACKAGES:
        try:
            pinned.append(f"{name}=={version(name)}")
        except PackageNotFoundError:  # run from a source tree that is not installed
            continue
    return tuple(pinned)


def _load_pyfunc(path: str) -> Predictor:
    """Called by `mlflow.pyfunc.load_model` with the folder of the model."""
    folder = Path(path)
    names = [file.name for file in folder.iterdir()]
    inner = {name: [file.name for file in folder.glob(f"{name}/*")] for name in BESIDE}
    refuse_foreign(names, f"The MLflow model in {folder}", inner)
    network = _network(folder)
    chain = Model.load(str(folder / MLMODEL_FILE_NAME)).flavors[FLAVOR]["chain"]
    return Predictor(network, measured(MlflowClient(), chain, network))


def _configuration(folder: Path) -> dict[str, Any]:
    """The flavor's part of a model's MLmodel file, which names no code but ours."""
    flavors = Model.load(str(folder / MLMODEL_FILE_NAME)).flavors
    conf = flavors.get(FLAVOR)
    if not isinstance(conf, dict):
        raise ArtifactError(
            "This MLflow model was not stored by modkernel: use one that "
            "'modkernel modules list' shows."
        )
    served = {k: v for k, v in (flavors.get(PYFUNC) or {}).items() if k != "python_version"}
    if served != OUR_CODE or len(flavors) > 2:
        raise ArtifactError(
            "This MLflow model's MLmodel file names code that modkernel did not write: 'modkernel "
            "repair' stores the module again without it."
        )
    return conf


def _is_network(conf: Mapping[str, Any]) -> bool:
    return NetworkRecord.tag in conf


def _network(folder: Path) -> Network:
    conf = _configuration(folder)
    known: _Configuration | _NetworkConfiguration
    try:
        if _is_network(conf):
            known = _NetworkConfiguration.model_validate(conf)
        else:
            known = _Configuration.model_validate(conf)
    except ValidationError as error:
        raise ArtifactError(
            f"This MLflow model's configuration has {error.error_count()} fields that modkernel "
            "did not write: use a model that 'modkernel modules list' shows."
        ) from None
    top: list[StoredModule] = []
    if isinstance(known, _Configuration):
        top.append(read_module(folder, known.weights_sha256, known.spec_sha256))
    elif known.network_id != network_id(known.network, [one.module_id for one in known.chain]):
        raise ArtifactError(
            f"The MLflow model of network {known.network} names other modules than the network "
            "has: 'modkernel repair' stores it again."
        )
    client = MlflowClient()
    with tempfile.TemporaryDirectory() as temporary:
        chain = [
            fetch_module(
                client,
                entry.model_id,
                Path(temporary),
                (entry.module_id, entry.weights_sha256, entry.spec_sha256),
            )
            for entry in known.chain
        ]
        with trusting(Settings().trusted_packages):
            return assemble([*chain, *top])
