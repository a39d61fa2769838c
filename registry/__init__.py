"""The registry: identity, lineage and compositions in SQL, runs and bytes in MLflow."""

from registry import _environment  # noqa: F401  (before anything that imports mlflow)
from registry.claims import Claim
from registry.records import (
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
)
from registry.registry import Registry
from registry.settings import Settings

__all__ = [
    "Action",
    "Advice",
    "Claim",
    "EvaluationRecord",
    "LeftOut",
    "ModuleRecord",
    "MomentsRecord",
    "NetworkRecord",
    "Problem",
    "PromotionRecord",
    "Ranked",
    "Registry",
    "Settings",
]
