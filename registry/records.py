"""What comes out of the registry: frozen records, never rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from modkernel.lookup import import_paths, is_import_path
from modkernel.spec import ModuleSpec
from modkernel.training.report import OutputEvaluation

State = Literal["PENDING", "READY", "LOST", "DELETING"]
"""PENDING: being stored. READY: usable. LOST: its bytes are gone or altered, its history stays.
DELETING: a person deleted it, and it is not yet gone everywhere."""

LARGEST_VERSION = 2**31 - 1
"""What the databases' integers hold: PostgreSQL's, whose are the smallest."""


@dataclass(frozen=True)
class Identity:
    """Which registry this is, of those that keep their runs in the same MLflow."""

    tag: ClassVar[str] = "registry"
    """Of runs, models and versions: its value there is the id of the registry that made them."""

    id: str
    has_untagged: bool
    """Whether what has no tag is its: it had modules before there was the tag."""

    def made(self, tags: Mapping[str, str]) -> bool:
        """Whether it made the run, model or version with these tags."""
        found = tags.get(self.tag)
        return self.has_untagged if found is None else found == self.id


def version_number(text: str) -> int | None:
    """The number of a version as a person writes it; None where no version can have it."""
    if not text.isdecimal() or len(text) > len(str(LARGEST_VERSION)):
        return None
    return number if (number := int(text)) <= LARGEST_VERSION else None


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class VersionRecord(Record):
    """What is a version of a registered model in MLflow: a module, or a network."""

    tag: ClassVar[str]
    """Of its MLflow models and versions: its value there is the id."""

    id: str
    name: str
    version: int | None
    run_id: str | None
    model_id: str | None
    files: dict[str, str] | None

    @property
    def short_id(self) -> str:
        """The first twelve digits of the id, as people quote it."""
        return self.id[:12]

    @property
    def source(self) -> str:
        """What its version in MLflow names as its source."""
        return f"models:/{self.model_id}"


class ModuleRecord(VersionRecord):
    """One stored module."""

    tag: ClassVar[str] = "module_id"

    id: str = Field(description="SHA-256 over the weights' and the spec's digests, in hex.")
    name: str = Field(description="Registered model in MLflow, e.g. 'cifar10.hidden-1'.")
    version: int | None = Field(description="Version of that model; none while PENDING.")
    kind: Literal["hidden", "imported", "stitch", "output"]
    spec: ModuleSpec
    recipe_digest: str
    weights_sha256: str
    spec_sha256: str
    size_bytes: int = Field(description="Of the weights file.")
    state: State
    created_at: datetime = Field(description="UTC.")
    seconds: float = Field(description="Spent training.")
    run_id: str | None = Field(description="MLflow run.")
    model_id: str | None = Field(description="MLflow model, 'm-…': permanent, unlike a version.")
    metrics: dict[str, float]
    files: dict[str, str] | None = Field(
        description="SHA-256 of every file of its MLflow model by name; none before there is one."
    )


def needs(modules: Iterable[ModuleRecord]) -> dict[str, str]:
    """What modules need that modkernel does not bring: import paths, each with what it is for."""
    found: dict[str, str] = {}
    for module in modules:
        found |= dict.fromkeys(import_paths(module.spec), "to load it")
        if is_import_path(module.spec.dataset.name):
            found.setdefault(module.spec.dataset.name, "to read its data again")
    return found


class BesideRecord(Record):
    """A file beside a module in its MLflow model, as it is stored."""

    module_id: str
    fingerprint: str = Field(description="Of the data set.")
    sha256: str
    size_bytes: int
    path: str = Field(description="In the folder of the module's MLflow model.")
    created_at: datetime = Field(description="UTC.")

    @property
    def key(self) -> str:
        """What tells it from others of its kind beside the module."""
        return self.fingerprint


class MomentsRecord(BesideRecord):
    """Class moments of a module's features on one data set."""

    dataset: str | None = Field(description="Name of the data set, where it was told.")
    classes: tuple[str, ...]
    examples: int = Field(description="Measured, of the training and the validation part.")
    dimension: int = Field(description="Of a feature vector.")
    seconds: float = Field(description="Of the pass over the data.")

    def __str__(self) -> str:
        return f"moments of data {self.fingerprint[:12]}"


class GroundTruthRecord(BesideRecord):
    """What a module was found to be worth for some tasks."""

    digest: str = Field(description="Of the spec of what was to be found.")

    @property
    def key(self) -> str:
        """The digest: on one data set there may be any number of them."""
        return self.digest

    def __str__(self) -> str:
        return f"ground truth {self.digest[:12]}"


class EvaluationRecord(Record):
    """One evaluation of a network."""

    network_id: str
    dataset: str
    fingerprint: str
    evaluation: OutputEvaluation
    created_at: datetime = Field(description="UTC.")


def network_id(name: str, module_ids: Sequence[str]) -> str:
    """SHA-256 over a name and the ordered ids of the modules: equal compositions, equal id."""
    text = json.dumps({"modules": list(module_ids), "name": name}, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class NetworkRecord(VersionRecord):
    """One composition: which modules, by id and hashes, in order."""

    tag: ClassVar[str] = "network_id"

    id: str = Field(description="SHA-256 over the name and the modules' ids, in hex.")
    name: str = Field(description="Registered model in MLflow.")
    version: int | None = Field(description="Version of that model; none before it is made.")
    module_ids: tuple[str, ...] = Field(description="First hidden module first.")
    created_at: datetime = Field(description="UTC.")
    run_id: str | None = Field(description="The network's MLflow run, parent of its modules'.")
    model_id: str | None = Field(description="MLflow model, which names the modules.")
    files: dict[str, str] | None = Field(
        description="SHA-256 of every file of its MLflow model by name; none before there is one."
    )
    evaluation: OutputEvaluation | None = Field(description="The newest one.")
    spec: dict[str, Any] | None = Field(description="The network spec it was made from.")


class Named(Record):
    """What a card links to: a version of a module or of a network."""

    id: str
    name: str
    version: int | None


class Uses(Record):
    """What stands on a module, and which networks have it; of each the oldest few."""

    modules: tuple[Named, ...] = ()
    n_modules: int = 0
    stitches: tuple[Named, ...] = ()
    """That have a copy of it."""
    n_stitches: int = 0
    networks: tuple[Named, ...] = ()
    n_networks: int = 0
    upper: Named | None = None
    """Of a stitch: the module that it has a copy of, while that is stored."""


class PromotionRecord(Record):
    """An alias that was seen to point to another version than before."""

    name: str
    alias: str
    version: int | None = Field(description="None: the alias was removed.")
    module_id: str | None = Field(description="Of the module, or of the network.")
    before: int | None = Field(
        None, description="The version that it pointed to before; none where it was new."
    )
    who: str | None = Field(None, description="None: it was moved in MLflow, by whoever may.")
    reason: str | None = None
    seen_at: datetime = Field(description="UTC, when the registry noticed.")


class StoredNames(Record):
    """What can be chosen from, the newest first."""

    modules: tuple[str, ...] = Field(
        description="Hidden modules, as NAME, NAME@ALIAS and NAME/VERSION."
    )
    networks: tuple[str, ...]
    stages: tuple[str, ...] = Field(description="Of the network with most of them.")


class Dependents(Record):
    """All that would be broken without some modules."""

    modules: tuple[ModuleRecord, ...] = Field(description="That stand on them, the highest first.")
    networks: tuple[NetworkRecord, ...] = Field(description="That have one of all these.")

    def __bool__(self) -> bool:
        return bool(self.modules or self.networks)


class Garbage(Record):
    """Something that takes room and that nothing refers to."""

    kind: Literal["version", "model", "run", "checkpoint", "copy", "features", "work", "training"]
    name: str = Field(description="What it is of.")
    id: str = Field(description="A module's, a run's or a model's id, or a path.")
    size_bytes: int


class Problem(Record):
    """Something that `Registry.verify` found."""

    kind: Literal[
        "unfinished",
        "deleting",
        "deleted",
        "artifact",
        "version",
        "page",
        "lost",
        "unread",
        "moments",
        "ground_truth",
    ]
    module_id: str | None = Field(description="None where it is a network.")
    network_id: str | None = Field(None, description="None where it is a module.")
    name: str
    message: str


class Action(Record):
    """Something that `Registry.repair` did, or could not do."""

    kind: Literal[
        "finished",
        "undone",
        "deleted",
        "restored",
        "registered",
        "rewritten",
        "lost",
        "dropped",
        "closed",
        "failed",
    ]
    module_id: str | None = Field(
        description="None where it is a network, or an MLflow run or experiment."
    )
    network_id: str | None = Field(None, description="None where it is no network.")
    name: str
    message: str
