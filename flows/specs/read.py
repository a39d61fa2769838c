"""A YAML file → a spec (of a network, a study, a search), or one sentence: where it is wrong."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import yaml
from pydantic import TypeAdapter, ValidationError

from modkernel.errors import SpecError
from modkernel.flows.runtime.explain import describe, explain
from modkernel.flows.specs.paths import stored_path
from modkernel.spec import NetworkSpec, Spec, pairs_from, with_file

S = TypeVar("S", bound=Spec)
PATH_FIELDS = (("dataset", "path"), ("others", "dataset", "path"), ("pairs",), ("labels",))
"""Fields that name files or data; a relative path counts from the spec file's folder."""
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
    return parse_spec(_text(path), kind, name=str(path), folder=path.parent)


def read_spec_of_some_kind(path: Path, kind_of: Callable[[dict[Any, Any]], type[S]]) -> S:
    """Read one spec file that tells by its fields what it describes.

    Args:
        path: of the file.
        kind_of: finds the kind of spec from the file's fields.

    Raises:
        SpecError: see `read_spec`.
    """
    name = str(path)
    document = _document(_text(path), name, NetworkSpec)
    return _spec(document, kind_of(document), name, path.parent)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(
            f"There is no spec file {path}: give the path of a YAML file such as "
            "examples/digits.yaml."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"Cannot read the spec file {path}: {error}.") from None


@overload
def parse_spec(text: str, *, name: str, folder: Path) -> NetworkSpec: ...


@overload
def parse_spec(text: str, kind: type[S], *, name: str, folder: Path) -> S: ...


def parse_spec(text: str, kind: type[Spec] = NetworkSpec, *, name: str, folder: Path) -> Spec:
    """Parse a spec; `name` stands in messages, relative paths count from `folder`.

    Raises:
        SpecError: see `read_spec`.
    """
    return _spec(_document(text, name, kind), kind, name, folder)


def _document(text: str, name: str, kind: type[Spec]) -> dict[Any, Any]:
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
            f"not {describe(document)}."
        )
    return document


def _spec(document: dict[Any, Any], kind: type[S], name: str, folder: Path) -> S:
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


def _make_absolute(part: Any, field: Sequence[str], folder: Path) -> None:
    """Make the path in a field absolute, in every item of a list on the way."""
    first, *rest = field
    if isinstance(part, list):
        for item in part:
            _make_absolute(item, field, folder)
    elif isinstance(part, dict) and rest:
        _make_absolute(part.get(first), rest, folder)
    elif isinstance(part, dict) and isinstance(part.get(first), str):
        given = part[first]
        named = pairs_from(given).file if first == "pairs" else given
        if named is not None:
            path = stored_path(named, folder)
            part[first] = with_file(given, path) if first == "pairs" else path
