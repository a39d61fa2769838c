"""A form as Prefect stores and shows it: a schema whose choice lists follow the registry."""

from __future__ import annotations

from typing import Any

from prefect.utilities.callables import ParameterSchema

from modkernel.flows.runtime.form_flow import Form
from modkernel.flows.servers.registration import STORED, stored_choices
from modkernel.kernels import AUTO, KERNELS
from modkernel.objectives.table import OBJECTIVES
from modkernel.registry import StoredNames

NULL = {"type": "null"}
OFFERED = {"KernelSpec": (AUTO, *KERNELS), "ObjectiveSpec": tuple(OBJECTIVES)}
"""Choices for the field `name` of specs that stand whole in an advanced part."""
FOLDED = "As usual"
"""What the tab of a folded part is called."""
EMPTY = "Nothing is stored yet."


def form_schema(form: type[Form], names: StoredNames | None) -> ParameterSchema:
    """What Prefect stores of a form.

    Args:
        form: its fields.
        names: what is stored; any text is allowed where that is not known.
    """
    schema = form.model_json_schema(ref_template="#/definitions/{model}")
    definitions = schema.get("$defs", {})
    for title, model in (("", schema), *definitions.items()):
        for position, (name, field) in enumerate(model.get("properties", {}).items()):
            field["position"] = position  # Some databases sort keys.
            field.setdefault("title", name.replace("_", " ").title())
            _plain(field)
            if name == "name" and title in OFFERED:
                field["enum"] = list(OFFERED[title])
    if names is not None:
        for name, choice in stored_choices(schema["properties"]):
            choice["enum"] = list(getattr(names, choice[STORED]))
            _begin_with(schema["properties"][name], choice, name in schema.get("required", ()))
    # All of it, since what was not set is not stored, and Prefect's page needs the type.
    return ParameterSchema(
        title="Parameters",
        type="object",
        properties=schema["properties"],
        required=schema.get("required", []),
        definitions=definitions,
    )


def _plain(field: dict[str, Any]) -> None:
    """An optional value as a field that may be blank; Prefect shows tabs for it, which fold a part.

    The tab of the default is the open one.
    """
    kinds = field.get("anyOf", [])
    others = [kind for kind in kinds if kind != NULL]
    if len(others) != 1 or len(kinds) != 2:
        return
    if "$ref" in others[0]:
        field["anyOf"] = [{**NULL, "title": FOLDED}, *others]
    else:
        del field["anyOf"]
        if field.get("default", ...) is None:
            del field["default"]
        field.update({**others[0], **field})


def _begin_with(field: dict[str, Any], choice: dict[str, Any], is_required: bool) -> None:
    """What a form shows of stored things before anybody chooses."""
    if not choice["enum"]:
        field["description"] = f"{field.get('description', '')} {EMPTY}".strip()
    elif is_required:
        field["default"] = choice["enum"][0]
