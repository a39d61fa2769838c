"""What the short forms are made of: choice lists, and the rest of a spec, which is folded away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, overload

from pydantic import Field, GetCoreSchemaHandler, ValidationError, WithJsonSchema, create_model
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from modkernel.backbones.build import BACKBONES
from modkernel.data.load import DATASETS
from modkernel.errors import SpecError
from modkernel.flows.runtime.explain import explain
from modkernel.flows.runtime.form_flow import Blanks
from modkernel.flows.servers.registration import STORED
from modkernel.kernels import AUTO, KERNELS
from modkernel.objectives.table import OBJECTIVES
from modkernel.spec import BackboneSpec, DatasetSpec, OutputSpec, Recipe, Spec

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class OneOf:
    """Annotation of a text that is one of some names: a choice list."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Allow the names, whatever the annotated type."""
        return core_schema.literal_schema(list(self.names))


@dataclass(frozen=True)
class Folded:
    """Annotation of a part of a form that is left out, and folded, unless it is opened."""

    part: type[Blanks]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Allow the part or nothing, whatever the annotated type."""
        return handler.generate_schema(self.part | None)


def _stored(what: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", STORED: what})


StoredModule = Annotated[str, _stored("modules")]
StoredNetwork = Annotated[str, _stored("networks")]
StoredStage = Annotated[str, _stored("stages")]

DatasetName = Annotated[str, OneOf(tuple(DATASETS))]
BackboneName = Annotated[str, OneOf(tuple(BACKBONES))]
KernelName = Annotated[
    str, OneOf((AUTO, *KERNELS)), Field(description="auto follows the shape of the output.")
]
ObjectiveName = Annotated[
    str, OneOf(tuple(OBJECTIVES)), Field(description="What a hidden module maximises.")
]
Path = Annotated[
    str | None,
    Field(description="Folder, file of arrays or table, or name in data_paths; or blank."),
]
Epochs = Annotated[int, Field(ge=1, description="Of each hidden module.")]
Seed = Annotated[int, Field(ge=0, description="Of the weights and the order of the data.")]
Labels = Annotated[
    int | None, Field(ge=1, description="What the output module learns from; blank: all labels.")
]
Method = Annotated[
    Literal["cross_entropy", "hinge", "ridge"],
    Field(description="How the output module is trained."),
]


def field_of(kind: type[Spec], name: str) -> tuple[Any, FieldInfo]:
    """A field as a spec has it, for `part`."""
    return _field(kind.model_fields[name], kind.model_fields[name].default)


def rest_of(base: Spec, *short: str) -> type[Blanks]:
    """A part of a form with the fields of a spec that its short part does not have.

    Args:
        base: a spec; what is left out is as in it.
        short: names of the fields of the short part.
    """
    kind = type(base)
    fields = {
        name: _field(info, getattr(base, name))
        for name, info in kind.model_fields.items()
        if name not in short
    }
    return _model(kind.__name__, kind.model_config.get("title") or kind.__name__, fields)


def part(title: str, **fields: Any) -> type[Blanks]:
    """A part of a form.

    Args:
        title: what Prefect's page calls it.
        fields: each a pair of type and `Field`, or a part, which is folded then.
    """
    typed = {
        name: (field | None, None) if isinstance(field, type) else field
        for name, field in fields.items()
    }
    return _model(title, title, typed)


def _model(name: str, title: str, fields: dict[str, Any]) -> type[Blanks]:
    made: type[Blanks] = create_model(
        name, __base__=Blanks, __cls_kwargs__={"title": title}, **fields
    )
    return made


def _field(info: FieldInfo, default: Any) -> tuple[Any, FieldInfo]:
    kind: Any = info.annotation
    for constraint in info.metadata:
        kind = Annotated[kind, constraint]
    return kind, Field(default, title=info.title, description=info.description)


def inner(values: Blanks | None, name: str) -> Any:
    """What a part of a form says of a field; none where it is folded or blank."""
    return getattr(values, name, None)


def whole(base: S, values: Blanks | None, where: str, **short: Any) -> S:
    """A spec of what the short part and an opened part of a form say, which share no field.

    Args:
        base: what is left out is as in it.
        values: the opened part, if it is.
        where: the part stands in the form.
        short: fields of the short part.

    Raises:
        SpecError: they do not go together.
    """
    opened = {} if values is None else {n: getattr(values, n) for n in values.model_fields_set}
    try:
        return base.changed(**opened, **short)
    except ValidationError as error:
        raise SpecError(f"{where}: {explain(error, type(base))}") from None


@overload
def dataset_of(name: str, path: str | None, advanced: Blanks | None) -> DatasetSpec: ...


@overload
def dataset_of(
    name: str | None, path: str | None, advanced: Blanks | None
) -> DatasetSpec | None: ...


def dataset_of(name: str | None, path: str | None, advanced: Blanks | None) -> DatasetSpec | None:
    """The data set that a form names, if any.

    Raises:
        SpecError: the form says more of a data set, and not which.
    """
    rest = inner(advanced, "dataset")
    if name is not None:
        return whole(DatasetSpec(), rest, "advanced.dataset", name=name, path=path)
    for field, value in (("path", path), ("advanced.dataset", rest)):
        if value is not None:
            raise SpecError(f"'{field}' tells more of a data set: choose the 'dataset', too.")
    return None


def backbone_of(name: str, modules: int, advanced: Blanks | None) -> BackboneSpec:
    """The backbone that a form names; an mlp has a layer a module at least."""
    base = BackboneSpec()
    if name == base.name:
        base = base.changed(depth=max(base.depth, modules))
    return whole(base, inner(advanced, "backbone"), "advanced.backbone", name=name)


def recipe_of(epochs: int, advanced: Blanks | None) -> Recipe:
    """How a form has hidden modules trained."""
    return whole(Recipe(), inner(advanced, "training"), "advanced.training", epochs=epochs)


def output_of(advanced: Blanks | None, **short: Any) -> OutputSpec:
    """The output module that a form asks for."""
    return whole(OutputSpec(), inner(advanced, "output"), "advanced.output", **short)
