"""The registry: identity, lineage and compositions in SQL, runs and bytes in MLflow."""

from modkernel.registry import _environment  # noqa: F401  (before anything that imports mlflow)
from modkernel.registry.examples import Seen
from modkernel.registry.records import (
    Action,
    Advice,
    EvaluationRecord,
    LeftOut,
    ModuleRecord,
    MomentsRecord,
    NetworkRecord,
    Problem,
    PromotionRecord,
    Ranked,
    StoredNames,
)
from modkernel.registry.registry import Registry
from modkernel.registry.settings import Settings
from modkernel.registry.sql.claims import Claim, Holder

__all__ = [
    "Action",
    "Advice",
    "Claim",
    "EvaluationRecord",
    "Holder",
    "LeftOut",
    "ModuleRecord",
    "MomentsRecord",
    "NetworkRecord",
    "Problem",
    "PromotionRecord",
    "Ranked",
    "Registry",
    "Seen",
    "Settings",
    "StoredNames",
]
