"""Everything that modkernel raises on purpose.

Each message is one sentence or two: what was wrong, what is allowed, what to do.
The command line prints that message and exits non-zero; it never prints a traceback for these.

    ModkernelError
    ├── SpecError                 a spec asks for something that cannot be
    │   ├── UnknownNameError      a name that is not in a table
    │   ├── NameTakenError        a name that something of another kind has
    │   └── CutError              a cut that the backbone does not allow
    ├── DataError                 data that is missing, unreadable or unfit
    │   ├── ClassError            unknown classes, or fewer than two of them
    │   ├── LabelBudgetError      more labels per class than exist
    │   └── ImageError            an image that cannot be read (it is named)
    ├── PairError                 no known pair, or no same pair where one is needed
    ├── MomentsError              class moments that are missing, of other data or too large
    ├── ScoreError                a score that is undefined for what it was given
    ├── ObjectiveError            an objective that is undefined for its kernel
    ├── InterfaceError            modules that do not fit: shape, channels or upstream
    ├── StitchError               a stitch that is not worth storing
    ├── ExportError               a network that a form of export cannot hold, or its check failed
    ├── TrainingError             training could not go on
    │   ├── NonFiniteError        a loss or gradient that is not finite
    │   ├── ChildError            the training process died
    │   └── StoppedError          training was asked to stop; a checkpoint is there
    ├── StoreError                what is stored is missing, altered or of another version
    │   ├── NotFoundError         no such module or network
    │   ├── AmbiguousError        a reference that names more than one module
    │   ├── ArtifactError         missing or altered bytes
    │   ├── InUseError            what others stand on is not deleted
    │   ├── DeniedError           MLflow does not let this account do it
    │   └── SchemaVersionError    a database of another schema version
    ├── NotAllowedError           what others alone may do
    ├── WeightsError              a file of weights from elsewhere that cannot be taken
    ├── BundleError               a bundle that is damaged, foreign, too large or not trusted
    ├── SettingsError             a setting, folder or port that cannot be used
    └── ServiceError              a server that died or never answered
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "AmbiguousError",
    "ArtifactError",
    "BundleError",
    "ChildError",
    "ClassError",
    "CutError",
    "DataError",
    "DeniedError",
    "ExportError",
    "ImageError",
    "InUseError",
    "InterfaceError",
    "LabelBudgetError",
    "ModkernelError",
    "MomentsError",
    "NameTakenError",
    "NonFiniteError",
    "NotAllowedError",
    "NotFoundError",
    "ObjectiveError",
    "PairError",
    "SchemaVersionError",
    "ScoreError",
    "ServiceError",
    "SettingsError",
    "SpecError",
    "StitchError",
    "StoppedError",
    "StoreError",
    "TrainingError",
    "UnknownNameError",
    "WeightsError",
]


class ModkernelError(Exception):
    """Base of every error that modkernel raises on purpose."""


class SpecError(ModkernelError):
    """A spec asks for something that cannot be."""


class UnknownNameError(SpecError):
    """A name that is not in the table it was looked up in."""

    def __init__(self, kind: str, name: str, allowed: Iterable[str], own: str = "") -> None:
        self.kind, self.name, self.allowed = kind, name, tuple(allowed)
        own = f", or {own}" if own else ""
        super().__init__(f"Unknown {kind} '{name}': use one of {', '.join(self.allowed)}{own}.")


class NameTakenError(SpecError):
    """A name for a network that a module has, or the other way round."""


class CutError(SpecError):
    """A cut that the backbone does not allow."""


class DataError(ModkernelError):
    """Data that is missing, unreadable or unfit for the task."""


class ClassError(DataError):
    """Unknown classes, or fewer than two of them."""


class LabelBudgetError(DataError):
    """More labels per class were asked for than exist."""


class ImageError(DataError):
    """An image that cannot be read; the message names the file."""


class PairError(ModkernelError):
    """No known pair, or no same pair where the value needs one."""


class MomentsError(ModkernelError):
    """Class moments that are missing, of other data, or too large to store."""


class ScoreError(ModkernelError):
    """A score that is undefined for the features, labels or moments it was given."""


class ObjectiveError(ModkernelError):
    """An objective that is undefined for the kernel it was given."""


class InterfaceError(ModkernelError):
    """Modules that do not fit together: shape, channels or upstream."""


class StitchError(ModkernelError):
    """A stitch that is not worth storing; the message has its figures."""


class ExportError(ModkernelError):
    """A network that a form of export cannot hold, or a file that does not compute the same."""


class TrainingError(ModkernelError):
    """Training could not go on."""


class NonFiniteError(TrainingError):
    """A loss or gradient that is not finite."""


class ChildError(TrainingError):
    """The training process died or could not be started."""

    died = False
    """Whether something from outside ended it, so that trying again may help."""


class StoppedError(TrainingError):
    """Training was asked to stop; it resumes from the checkpoint that it wrote."""


class StoreError(ModkernelError):
    """What is stored is missing, altered or of another version."""


class NotFoundError(StoreError):
    """No module or network answers to the reference."""


class AmbiguousError(StoreError):
    """A reference that names more than one module."""


class ArtifactError(StoreError):
    """Bytes that are missing or that differ from what was stored."""


class InUseError(StoreError):
    """Something that others stand on cannot be deleted."""


class DeniedError(StoreError):
    """MLflow does not let the account that asks do it."""


class SchemaVersionError(StoreError):
    """A database of another schema version."""


class NotAllowedError(ModkernelError):
    """Something that others alone may do."""


class BundleError(ModkernelError):
    """A bundle of modules that is damaged, foreign, too large or not trusted."""


class WeightsError(ModkernelError):
    """Weights from elsewhere that are no safetensors, or not those of the network they are for."""


class SettingsError(ModkernelError):
    """A setting, folder or port that cannot be used."""


class ServiceError(ModkernelError):
    """A server that died or never answered; the message has the end of its log."""
