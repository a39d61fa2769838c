"""The registry: identity, lineage and compositions in SQL, runs and bytes in MLflow."""

from registry import _environment  # noqa: F401  (before anything that imports mlflow)
from registry.claims import Claim
from registry.records import (
    Action,
    EvaluationRecord,
    ModuleRecord,
    NetworkRecord,
    Problem,
    PromotionRecord,
)
from registry.registry import Registry
from registry.settings import Settings

__all__ = [
    "Action",
    "Claim",
    "EvaluationRecord",
    "ModuleRecord",
    "NetworkRecord",
    "Problem",
    "PromotionRecord",
    "Registry",
    "Settings",
]
