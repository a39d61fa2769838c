"""What pydantic found wrong, as one sentence for a person."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from modkernel.spec.shown import clipped, shown


def explain(error: ValidationError, kind: Any) -> str:
    """One sentence for a pydantic error: each field, what was wrong with it, what is allowed.

    Args:
        error: of validating a value.
        kind: the type that it was to be of.
    """
    items = error.errors(include_url=False)
    # An invalid item also counts as absent from its list: only the first of the two helps.
    below = {item["loc"][:n] for item in items for n in range(len(item["loc"]))}
    problems = [
        _problem(item, kind)
        for item in items
        if item["type"] != "too_short" or item["loc"] not in below
    ]
    shown = "; ".join(problems[:3])
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return f"{shown}{more}."


def _problem(item: Any, kind: Any) -> str:
    field = _path(item["loc"]) or "it"
    match item["type"]:
        case "extra_forbidden":
            allowed = ", ".join(_fields_at(item["loc"], kind))
            return f"unknown field '{field}' (use one of {allowed})"
        case "missing":
            return f"'{field}' is missing"
        case "string_pattern_mismatch":
            return (
                f"'{field}' is {shown(item['input'])}, but allowed are lower-case letters, digits, "
                "'.', '_' and '-', beginning with a letter or digit"
            )
        case "too_short":
            return f"'{field}' needs at least {item['ctx']['min_length']} item(s)"
        case "string_type":
            return f"'{field}' is {describe(item['input'])}, but must be text: put it in quotes"
        case "value_error":
            return f"'{field}': {item['ctx']['error']}"
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"'{field}' is {describe(item['input'])}: {message}"


def _path(location: tuple[int | str, ...]) -> str:
    """`hidden[0].recipe.epochs` for ("hidden", 0, "recipe", "epochs")."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{clipped(part)}" if text else clipped(part)
    return text


def _fields_at(location: tuple[int | str, ...], kind: Any) -> tuple[str, ...]:
    """The fields of the model in which a location's last part stands."""
    model = _model_in(kind)
    for part in location[:-1]:
        if model is not None and part in model.model_fields:
            model = _model_in(model.model_fields[str(part)].annotation) or model
    return () if model is None else tuple(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that a type is, or is made of: of lists, of 'or none'."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(_model_in, get_args(annotation))), None)


def describe(value: object) -> str:
    """A value as messages name it."""
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list() | tuple():
            return f"a list of {len(value)}"
        case _:
            return shown(value)
