"""A YAML file → a `NetworkSpec`, or one sentence that says where the file is wrong."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from modkernel.errors import SpecError
from modkernel.spec import NetworkSpec

PATH_FIELDS = (("dataset", "path"), ("pairs",))
"""Fields that name files; a relative one counts from the spec file's folder."""


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that stands twice in one mapping."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key != "<<":
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key}' stands twice", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_spec(path: Path) -> NetworkSpec:
    """Read one network's spec file.

    Raises:
        SpecError: the file is missing, not YAML, or describes something that cannot be; the message
            names the file, and the line or the field.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(
            f"There is no spec file {path}: give the path of a YAML file such as "
            "examples/digits.yaml."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"Cannot read the spec file {path}: {error}.") from None
    return parse_spec(text, name=str(path), folder=path.parent)


def parse_spec(text: str, *, name: str, folder: Path) -> NetworkSpec:
    """Parse a spec; `name` stands in messages, relative paths count from `folder`.

    Raises:
        SpecError: see `read_spec`.
    """
    try:
        document = yaml.load(text, Loader=_StrictLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SpecError(f"{name}{where}: {error.problem or error.context}.") from None
    except (yaml.YAMLError, ValueError) as error:  # a date such as 2024-13-45 is a ValueError
        raise SpecError(f"{name} is not YAML: {error}.") from None
    if not isinstance(document, dict):
        raise SpecError(
            f"{name} must be a mapping of fields (name, dataset, backbone, hidden, output, ...), "
            f"not {_describe(document)}."
        )
    for field in PATH_FIELDS:
        _make_absolute(document, field, folder)
    try:
        return NetworkSpec.model_validate(document)
    except ValidationError as error:
        raise SpecError(f"{name}: {explain(error)}") from None


def validated(kind: Any, value: object, what: str) -> Any:
    """A value of a pydantic type.

    Args:
        kind: the type.
        value: what to make it of.
        what: what the value is called in the message, such as '--name'.

    Raises:
        SpecError: it is not allowed; the message says what is.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise SpecError(f"{what}: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """One sentence for a pydantic error: each field, what was wrong with it, what is allowed."""
    items = error.errors(include_url=False)
    # An invalid item also counts as absent from its list: only the first of the two helps.
    below = {item["loc"][:n] for item in items for n in range(len(item["loc"]))}
    problems = [
        _problem(item) for item in items if item["type"] != "too_short" or item["loc"] not in below
    ]
    shown = "; ".join(problems[:3])
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return f"{shown}{more}."


def _problem(item: Any) -> str:
    field = _path(item["loc"]) or "it"
    allowed = _fields_at(item["loc"])
    match item["type"]:
        case "extra_forbidden":
            return f"unknown field '{field}' (use one of {', '.join(allowed)})"
        case "missing":
            return f"'{field}' is missing"
        case "string_pattern_mismatch":
            return (
                f"'{field}' is {item['input']!r}, but allowed are lower-case letters, digits, "
                "'.', '_' and '-', beginning with a letter or digit"
            )
        case "too_short":
            return f"'{field}' needs at least {item['ctx']['min_length']} item(s)"
        case "string_type":
            return f"'{field}' is {_describe(item['input'])}, but must be text: put it in quotes"
        case "value_error":
            return f"'{field}': {item['ctx']['error']}"
    message = item["msg"][0].lower() + item["msg"][1:]
    return f"'{field}' is {_describe(item['input'])}: {message}"


def _path(location: tuple[int | str, ...]) -> str:
    """`hidden[0].recipe.epochs` for ("hidden", 0, "recipe", "epochs")."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _fields_at(location: tuple[int | str, ...]) -> tuple[str, ...]:
    """The fields of the model in which a location's last part stands."""
    model: type[BaseModel] = NetworkSpec
    for part in location[:-1]:
        if isinstance(part, str) and part in model.model_fields:
            candidates = [model.model_fields[part].annotation]
            while candidates:
                candidate = candidates.pop()
                if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                    model = candidate
                    break
                candidates.extend(get_args(candidate))
    return tuple(model.model_fields)


def _describe(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case dict():
            return "a mapping"
        case list() | tuple():
            return f"a list of {len(value)}"
        case _:
            return repr(value)


def _make_absolute(document: dict[str, Any], field: tuple[str, ...], folder: Path) -> None:
    *parents, last = field
    place: Any = document
    for parent in parents:
        place = place.get(parent) if isinstance(place, dict) else None
    if isinstance(place, dict) and isinstance(place.get(last), str):
        place[last] = str((folder / Path(place[last]).expanduser()).resolve())
