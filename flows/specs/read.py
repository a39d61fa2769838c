"""A YAML file → a spec (of a network, a study, a search), or one sentence: where it is wrong."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar, get_args, overload

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from modkernel.errors import SpecError
from modkernel.spec import NetworkSpec, Spec

S = TypeVar("S", bound=Spec)
PATH_FIELDS = (("dataset", "path"), ("pairs",))
"""Fields that name files; a relative one counts from the spec file's folder."""
MERGE = "tag:yaml.org,2002:merge"
"""YAML's tag of the key '<<'."""
DEEPEST = 50
"""How deep lists and mappings of a YAML file may be nested; a spec needs six."""


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that stands twice in one mapping, and deep nesting.

    Its own parser calls itself for every level, and its time grows with the square of them.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._checked: set[int] = set()
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Build one node and all below it."""
        if parent is not None and self._depth > DEEPEST:
            problem = f"lists and mappings are nested more than {DEEPEST} deep"
            raise yaml.constructor.ConstructorError(None, None, problem, parent.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what '<<' merges into a mapping: then its own keys may stand beside merged ones."""
        if id(node) not in self._checked:
            self._checked.add(id(node))
            self._check(node)
        super().flatten_mapping(node)

    def _check(self, node: yaml.MappingNode) -> None:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key '{key}' stands twice", key_node.start_mark
                    )
                seen.add(key)


@overload
def read_spec(path: Path) -> NetworkSpec: ...


@overload
def read_spec(path: Path, kind: type[S]) -> S: ...


def read_spec(path: Path, kind: type[Spec] = NetworkSpec) -> Spec:
    """Read one spec file.

    Args:
        path: of the file.
        kind: what it describes.

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
    return parse_spec(text, kind, name=str(path), folder=path.parent)


@overload
def parse_spec(text: str, *, name: str, folder: Path) -> NetworkSpec: ...


@overload
def parse_spec(text: str, kind: type[S], *, name: str, folder: Path) -> S: ...


def parse_spec(text: str, kind: type[Spec] = NetworkSpec, *, name: str, folder: Path) -> Spec:
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
            f"{name} must be a mapping of fields ({', '.join(kind.model_fields)}), "
            f"not {_describe(document)}."
        )
    for field in PATH_FIELDS:
        _make_absolute(document, field, folder)
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise SpecError(f"{name}: {explain(error, kind)}") from None


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
        raise SpecError(f"{what}: {explain(error, kind)}") from None


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
