"""The registry as one object: what flows and the command line use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from modkernel.modules.stored import StoredModule
from modkernel.registry import (
    advice,
    baselines,
    modules,
    moments,
    networks,
    promotions,
    references,
    repair,
)
from modkernel.registry.backends import Stores
from modkernel.registry.baselines import Baseline
from modkernel.registry.records import (
    Action,
    Advice,
    EvaluationRecord,
    ModuleRecord,
    MomentsRecord,
    NetworkRecord,
    Problem,
    PromotionRecord,
)
from modkernel.registry.settings import Settings
from modkernel.registry.sql import claims, queries
from modkernel.registry.sql.claims import Claim
from modkernel.registry.sql.engine import open_database
from modkernel.registry.tracking import runs
from modkernel.registry.tracking.client import open_mlflow
from modkernel.reuse.moments import ModuleMoments
from modkernel.reuse.scores import DEFAULT_SCORE
from modkernel.reuse.task import Task
from modkernel.spec import ModuleSpec, NetworkSpec, Shape, Spec
from modkernel.training.report import OutputEvaluation, TrainReport

if TYPE_CHECKING:
    from modkernel.data import DatasetInfo


class Registry:
    """Stored modules, networks made of them, and their runs.

    Safe to share between threads; processes each open their own. What it guarantees:

    - A module's id, spec, hashes and lineage never change once it is stored.
    - Of any number of processes exactly one holds the claim on a key.
    - A READY module's bytes were hashed where they are kept before it became READY, and are
      hashed again each time they are fetched.
    - A network names its modules by id and hashes: a later promotion never changes it.

    Every method raises StoreError where a database or MLflow does not answer.
    """

    def __init__(self, stores: Stores) -> None:
        self.stores = stores
        self.settings = stores.settings

    @classmethod
    def open(cls, settings: Settings) -> Registry:
        """Open both stores; empty ones are made, by one process at a time.

        Raises:
            SchemaVersionError: a database of another schema version; the message names both
                versions and the command.
            SettingsError: the home cannot be written to.
            StoreError: a store does not answer.
        """
        return cls(Stores(settings, open_database(settings), open_mlflow(settings)))

    def close(self) -> None:
        """Close the connections to the registry's database."""
        self.stores.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # Who trains what

    def find_ready(self, recipe_digest: str) -> ModuleRecord | None:
        """The ready module that a recipe gave before: it is reused, not trained again."""
        return queries.find_ready(self.stores.database, recipe_digest)

    def claim(self, recipe_digest: str, owner: str) -> Claim | None:
        """The right to train a recipe, or none while another holds it.

        The claim ends by itself when it is not renewed for `settings.lease_seconds`.
        """
        return claims.take(self.stores.database, recipe_digest, owner, self.settings.lease_seconds)

    # Runs

    @asks_mlflow
    def start_run(
        self,
        name: str,
        spec: ModuleSpec,
        parent_run_id: str | None = None,
        dataset: DatasetInfo | None = None,
    ) -> str:
        """The MLflow run of a module's training; one that died with this recipe is gone on with.

        Returns:
            The run's id.
        """
        client = self.stores.client
        return runs.start_run(client, self.settings, name, spec, parent_run_id, dataset)

    @asks_mlflow
    def start_network_run(
        self, name: str, spec: NetworkSpec | None = None, digest: str | None = None
    ) -> str:
        """Id of a network's MLflow run; one that died with the spec or digest is gone on with."""
        client = self.stores.client
        return runs.start_network_run(client, self.settings, name, spec, digest=digest)

    @asks_mlflow
    def log_epochs(self, run_id: str, lines: Sequence[Mapping[str, Any]]) -> None:
        """Log progress events in one batch, each at its epoch, but for those that the run has."""
        runs.log_epochs(self.stores.client, run_id, lines)

    @asks_mlflow
    def log_metrics(self, run_id: str, values: Mapping[str, Any], step: int = 0) -> None:
        """Log the finite numbers among `values` in one batch."""
        runs.log_metrics(self.stores.client, run_id, values, step)

    @asks_mlflow
    def log_figures(self, run_id: str, figures: Mapping[str, bytes]) -> None:
        """Log pictures, bytes by file name, under `figures/` of a run."""
        runs.log_figures(self.stores.client, run_id, figures)

    @asks_mlflow
    def finish_run(self, run_id: str, status: runs.RunStatus = "FINISHED") -> None:
        """End a run."""
        runs.finish_run(self.stores.client, run_id, status)

    # Baselines

    @asks_mlflow
    def find_baseline(self, name: str, digest: str) -> Baseline | None:
        """The baseline that a recipe gave before, under a network's name."""
        return baselines.find_baseline(self.stores, name, digest)

    @asks_mlflow
    def start_baseline_run(self, name: str, spec: NetworkSpec, digest: str) -> str:
        """The MLflow run of a baseline; one that died with this recipe is gone on with."""
        client = self.stores.client
        return runs.start_network_run(client, self.settings, name, spec, "baseline", digest)

    @asks_mlflow
    def keep_baseline(
        self, run_id: str, report: TrainReport, figures: Mapping[str, bytes]
    ) -> Baseline:
        """Put what a baseline gave on its run; it can be found once the run is finished."""
        return baselines.keep_baseline(self.stores, run_id, report, figures)

    # Studies

    @asks_mlflow
    def find_study_run(self, name: str, digest: str) -> str | None:
        """Id of the finished MLflow run of a study, if there is one."""
        client = self.stores.client
        experiment_id = runs.experiment(client, self.settings, name)
        run = runs.find_run(client, experiment_id, digest, finished=True)
        return None if run is None else str(run.info.run_id)

    @asks_mlflow
    def start_study_run(
        self, name: str, spec: Spec, digest: str, parameters: Mapping[str, str]
    ) -> str:
        """The MLflow run of a study, parent of its modules' runs. Returns its id."""
        client = self.stores.client
        return runs.start_study_run(client, self.settings, name, spec, digest, parameters)

    # Modules

    @asks_mlflow
    def store(
        self,
        folder: Path,
        *,
        name: str,
        report: TrainReport,
        run_id: str | None = None,
        figures: Mapping[str, bytes] | None = None,
    ) -> ModuleRecord:
        """Store a module; one that is stored already is returned as it is.

        Moments in the folder are kept once it is READY; a crash in between loses only them.

        Args:
            folder: Its two files, and its moments if it was measured, until this returns.
            name: '<network>.hidden-<k>' or '<network>.output'.
            report: How it was trained.
            run_id: Its MLflow run; one is made if left out.
            figures: Pictures for its card, bytes by file name ('objective.png').

        Raises:
            SpecError: the name cannot be a registered model's.
            ArtifactError: the files are missing, altered or not a module's.
            NotFoundError: the upstream is not in the registry.
        """
        return modules.store(
            self.stores, folder, name=name, report=report, run_id=run_id, figures=figures
        )

    @asks_mlflow
    def resolve(self, reference: str) -> ModuleRecord:
        """The module that is meant by an id, 6 digits of it, NAME, NAME@ALIAS or NAME/VERSION.

        Raises:
            NotFoundError: no ready module answers to it.
            AmbiguousError: a prefix of several ids.
        """
        return references.resolve(self.stores, reference)

    def chain(self, record: ModuleRecord) -> tuple[ModuleRecord, ...]:
        """The modules that a module stands on, first to last, itself last."""
        return queries.chain(self.stores.database, record.id)

    def find(
        self,
        name: str | None = None,
        kind: str | None = None,
        upstream: str | None = None,
        takes: Shape | None = None,
        gives: Shape | None = None,
    ) -> tuple[ModuleRecord, ...]:
        """The ready modules that have all of what is asked for, by name and then by age."""
        return queries.find(
            self.stores.database, name=name, kind=kind, upstream=upstream, takes=takes, gives=gives
        )

    @asks_mlflow
    def fetch(self, record: ModuleRecord) -> StoredModule:
        """A module's files in the private cache, brought there through MLflow if need be.

        Both hashes are checked at every call.

        Raises:
            ArtifactError: the files are missing or altered in MLflow's store.
        """
        return modules.fetch(self.stores, record)

    def report(self, record: ModuleRecord) -> TrainReport:
        """How a module was trained."""
        return TrainReport.model_validate_json(modules.report_of(self.stores, record.id))

    # Moments and advice

    @asks_mlflow
    def keep_moments(
        self, record: ModuleRecord, file: Path, dataset: str | None = None
    ) -> MomentsRecord:
        """Keep a file of moments beside its module; those of the same data that are there stay.

        `dataset` names the data set, where it is not the module's own.

        Raises:
            ArtifactError: the file is missing, altered or no file of moments.
            MomentsError: it holds the moments of another module.
            NotFoundError: the module is not ready.
        """
        return moments.keep_moments(self.stores, record, file, dataset)

    @asks_mlflow
    def moments(self, record: ModuleRecord, fingerprint: str) -> ModuleMoments:
        """The moments of a module on the data of a fingerprint; their hash is checked.

        Raises:
            MomentsError: there are none; the message names the command that computes them.
            ArtifactError: their bytes are missing or altered in MLflow's store.
        """
        return moments.moments(self.stores, record, fingerprint)

    def has_moments(self, record: ModuleRecord, fingerprint: str) -> bool:
        """Whether a module has moments of the data of a fingerprint."""
        return moments.find(self.stores, record.id, fingerprint) is not None

    def moments_of(self, record: ModuleRecord) -> tuple[MomentsRecord, ...]:
        """What a module was measured on, oldest first."""
        return moments.moments_of(self.stores, record.id)

    @asks_mlflow
    def rank_for_task(
        self, task: Task, data: DatasetInfo, score: str = DEFAULT_SCORE, *, top: int = 10
    ) -> Advice:
        """Rank every stored hidden module for a task, from stored moments, without training.

        `data` is the whole data set, `task` a choice or grouping of its classes. The first `top`
        get an accuracy and, with few examples, an interval. More in `modkernel.registry.advice`.

        Raises:
            UnknownNameError: there is no such score.
            ScoreError: the score is not computed from moments.
            ClassError: the task does not fit the classes of the data.
        """
        return advice.rank_for_task(self.stores, task, data, score, top=top)

    # Networks

    def add_network(
        self,
        name: str,
        module_ids: Sequence[str],
        evaluation: OutputEvaluation | None = None,
        run_id: str | None = None,
        spec: NetworkSpec | None = None,
    ) -> NetworkRecord:
        """Record a composition, pinned by ids and hashes; the name means it from now on.

        Raises:
            NotFoundError: a module is not in the registry, or not ready.
            InterfaceError: the modules do not stand on one another.
        """
        return networks.add_network(
            self.stores.database, name, module_ids, evaluation=evaluation, run_id=run_id, spec=spec
        )

    def networks(self, name: str | None = None) -> tuple[NetworkRecord, ...]:
        """All networks, or those of a name, oldest first."""
        return networks.networks(self.stores.database, name)

    def network(self, reference: str) -> NetworkRecord:
        """The network of an id or a unique prefix of one, or the one of a name made last.

        Raises:
            NotFoundError: there is none.
            AmbiguousError: a prefix of several ids.
        """
        return networks.network(self.stores.database, reference)

    def members(self, network: NetworkRecord) -> tuple[ModuleRecord, ...]:
        """The modules of a network, first to last.

        Raises:
            NotFoundError: one of them is lost.
        """
        return networks.members(self.stores.database, network)

    def sharing(self, network: NetworkRecord) -> dict[str, tuple[NetworkRecord, ...]]:
        """By id of each module of a network: the other networks that have it, oldest first."""
        return networks.sharing(self.stores.database, network)

    def evaluations(self, network: NetworkRecord) -> tuple[EvaluationRecord, ...]:
        """How a network was evaluated, oldest first."""
        return networks.evaluations(self.stores.database, network.id)

    # Promotions

    @asks_mlflow
    def promote(self, name: str, alias: str, version: int) -> PromotionRecord:
        """Point an alias to a version, in MLflow, and record it.

        Raises:
            NotFoundError: there is no such version.
            SpecError: MLflow does not take the alias.
        """
        return promotions.promote(self.stores, name, alias, version)

    @asks_mlflow
    def sync_promotions(self) -> tuple[PromotionRecord, ...]:
        """Record what people changed among MLflow's aliases; returns the changes."""
        return promotions.sync_promotions(self.stores)

    def promotions(self, name: str | None = None) -> tuple[PromotionRecord, ...]:
        """The history of aliases, oldest first."""
        return promotions.promotions(self.stores, name)

    # Health

    @asks_mlflow
    def verify(self) -> tuple[Problem, ...]:
        """All that is wrong with the stored modules; every byte is hashed."""
        return repair.verify(self.stores)

    @asks_mlflow
    def repair(self) -> tuple[Action, ...]:
        """Finish or undo what is unfinished, restore what can be, mark the rest LOST."""
        return repair.repair(self.stores)
