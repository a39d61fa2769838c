"""Runs of a recipe in MLflow: found, resumed, created."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Run, RunTag, ViewType
from mlflow.store.entities import PagedList
from mlflow.utils.mlflow_tags import MLFLOW_SOURCE_NAME

from modkernel.registry.records import Identity
from modkernel.registry.tracking.fields import RECIPE_TAG

T = TypeVar("T")

SOURCE = "modkernel"
"""By which our runs are known among others'."""


def create_run(
    client: MlflowClient, registry: Identity, experiment_id: str, name: str, tags: Mapping[str, str]
) -> str:
    """A new run of a registry, with these tags; gives its id."""
    ours = {**tags, Identity.tag: registry.id, MLFLOW_SOURCE_NAME: SOURCE}
    return str(client.create_run(experiment_id, tags=ours, run_name=name).info.run_id)


def resume_run(
    client: MlflowClient, registry: Identity, experiment_id: str, name: str, tags: Mapping[str, str]
) -> str | None:
    """Id of a registry's run that did not end well, of the recipe in `tags`: it runs again.

    Another registry's is left alone: that one may be at work on it.
    """
    run = find_run(client, [experiment_id], tags[RECIPE_TAG], "!=", registry)
    if run is None:
        return None
    run_id = str(run.info.run_id)
    client.update_run(run_id, status="RUNNING", name=name)
    told = {**tags, Identity.tag: registry.id}
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in told.items()])
    return run_id


def find_run(
    client: MlflowClient,
    experiments: list[str],
    digest: str,
    finished: Literal["=", "!="],
    registry: Identity | None = None,
) -> Run | None:
    """The newest run of a recipe that is finished, or that is not; of one registry, if it is given.

    One that is deleted is not found.
    """
    condition = f"tags.{RECIPE_TAG} = '{digest}' and attributes.status {finished} 'FINISHED'"
    found = all_pages(partial(client.search_runs, experiments, condition))
    fit = (run for run in found if registry is None or registry.made(run.data.tags))
    return next(fit, None)


def own_runs(
    client: MlflowClient,
    registry: Identity,
    condition: str | None = None,
    view: int = ViewType.ACTIVE_ONLY,
) -> tuple[Run, ...]:
    """A registry's runs of which a condition in MLflow's language holds, in all experiments."""
    ours = f"tags.`{MLFLOW_SOURCE_NAME}` = '{SOURCE}'"
    asked = ours if condition is None else f"{condition} and {ours}"
    return tuple(
        run
        for one in all_pages(client.search_experiments)
        for run in all_pages(
            partial(client.search_runs, [one.experiment_id], asked, run_view_type=view)
        )
        if registry.made(run.data.tags)
    )


def all_pages(search: Callable[..., PagedList[T]]) -> list[T]:
    """All that a search of MLflow's finds, which gives a page at a time."""
    found: list[T] = []
    token = None
    while True:
        page = search(page_token=token)
        found += page
        token = page.token
        if not token:
            return found
