"""The registry: identity, lineage and compositions in SQL, runs and bytes in MLflow."""

from typing import TYPE_CHECKING

from modkernel.registry.tracking import environment  # noqa: F401  (before what imports mlflow)
from modkernel.system.lazy import lazy_names

if TYPE_CHECKING:
    # Imported when first used: what wants the settings alone does not wait for MLflow.
    from modkernel.registry.advice.records import Advice as Advice
    from modkernel.registry.advice.records import JoinStep as JoinStep
    from modkernel.registry.advice.records import LeftOut as LeftOut
    from modkernel.registry.advice.records import NewModule as NewModule
    from modkernel.registry.advice.records import Ranked as Ranked
    from modkernel.registry.advice.records import Together as Together
    from modkernel.registry.beside.examples import Seen as Seen
    from modkernel.registry.catalogue import Catalogue as Catalogue
    from modkernel.registry.records import Action as Action
    from modkernel.registry.records import EvaluationRecord as EvaluationRecord
    from modkernel.registry.records import ModuleRecord as ModuleRecord
    from modkernel.registry.records import MomentsRecord as MomentsRecord
    from modkernel.registry.records import NetworkRecord as NetworkRecord
    from modkernel.registry.records import Problem as Problem
    from modkernel.registry.records import PromotionRecord as PromotionRecord
    from modkernel.registry.records import StoredNames as StoredNames
    from modkernel.registry.registry import Registry as Registry
    from modkernel.registry.settings import Settings as Settings
    from modkernel.registry.sql.claims import Claim as Claim
    from modkernel.registry.sql.claims import Holder as Holder
    from modkernel.registry.sql.find import ModuleQuery as ModuleQuery

__all__, __getattr__ = lazy_names(__name__, __file__)
