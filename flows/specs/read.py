"""A YAML file → a spec (of a network, a study, a search), or one sentence: where it is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from modkernel.errors import SpecError
from modkernel.flows.runtime.explain import describe, explain
from modkernel.flows.specs.paths import stored_path
from modkernel.spec import NetworkSpec, Spec, pairs_from, with_file
from modkernel.spec.shown import LONGEST, clipped

S = TypeVar("S", bound=Spec)
PATH_FIELDS = (("dataset", "path"), ("others", "dataset", "path"), ("pairs",), ("labels",))
"""Fields that name files or data; a relative path counts from the spec file's folder."""
MERGE = "tag:yaml.org,2002:merge"
"""YAML's tag of the key '<<'."""
DEEPEST = 50
"""How deep lists and mappings of a YAML file may be nested; a spec needs six."""
WHOLE = "'it': "
"""How a sentence begins that is about several fields of a spec together."""
LONG_WORD = re.compile(rf"('[^' ]{{{LONGEST}}})[^' ]+(')")
"""A tag or an alias that YAML's own messages name."""
LONGEST_LINE = 10_000
"""Characters of a line that is written."""
PLAIN = (
    ("merge", r"<<", "<"),
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
        r"|[0-9]+[eE][-+]?[0-9]+|\.(?:inf|Inf|INF|nan|NaN|NAN))",
        "-+0123456789.",
    ),
)
"""What words without quotes are, and how they begin; all others are text.

As in YAML 1.2, where 1e-3 is a number. By the rules of 1.1, of which PyYAML's are, it is text, and
010 would be 8, 1:30 would be 90, and classes called 'no' or '2026-11-28' no text. Numbers with
zeros in front are text, since classes are called so; a field of numbers takes them for what they
say.
"""


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which refuses a key that stands twice in one mapping, and deep nesting.

    It knows words without quotes by `PLAIN` alone. YAML's own parser calls itself for every level,
    and its time grows with the square of them.
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
                        None,
                        None,
                        f"the key '{clipped(str(key))}' stands twice",
                        key_node.start_mark,
                    )
                seen.add(key)


class _Dumper(yaml.SafeDumper):
    """Puts into quotes whatever `_StrictLoader` or YAML 1.1 would take for something else."""


_StrictLoader.yaml_implicit_resolvers = {
    first: [
        (f"tag:yaml.org,2002:{kind}", re.compile(f"(?:{pattern})$"))
        for kind, pattern, begins in PLAIN
        if first in begins
    ]
    for first in {first for *_, begins in PLAIN for first in begins}
}
_Dumper.yaml_implicit_resolvers = {
    first: [
        *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        *_StrictLoader.yaml_implicit_resolvers.get(first, []),
    ]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_StrictLoader.yaml_implicit_resolvers}
}


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


def as_yaml(document: object) -> str:
    """Part of a spec file, which is read as what it was."""
    return yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=LONGEST_LINE
    )


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
        told = LONG_WORD.sub(r"\1…\2", str(error.problem or error.context))
        raise SpecError(f"{name}{where}: {told}.") from None
    except (yaml.YAMLError, ValueError) as error:  # A number of 5,000 digits is a ValueError.
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
        spec = kind.model_validate(document)
    except ValidationError as error:
        raise SpecError(f"{name}: {explain(error, kind)}") from None
    wrong = next(_truths_for_numbers(document, spec), None)
    if wrong is not None:
        raise SpecError(f"{name}: '{wrong}' must be a number, not true or false.")
    return spec


def _truths_for_numbers(given: Any, read: Any, field: str = "") -> Iterator[str]:
    """Where true or false was taken for 1 or 0, as pydantic does."""
    if isinstance(given, bool):
        if not isinstance(read, bool) and isinstance(read, int | float):
            yield field
    elif isinstance(given, dict):
        for key, value in given.items():
            part = read.get(key) if isinstance(read, Mapping) else getattr(read, str(key), None)
            name = clipped(str(key))
            yield from _truths_for_numbers(value, part, f"{field}.{name}" if field else name)
    elif isinstance(given, list) and isinstance(read, Sequence):
        for index, (value, part) in enumerate(zip(given, read, strict=False)):
            yield from _truths_for_numbers(value, part, f"{field}[{index}]")


def validated(kind: Any, value: object, what: str) -> Any:
    """A value of a pydantic type.

    Args:
        kind: the type.
        value: what to make it of.
        what: what the value is called in the message, such as '--name'.

    Raises:
        SpecError: it is not allowed; the message says what is.
    """
    of_fields = isinstance(kind, type) and issubclass(kind, BaseModel)
    # One without fields is checked under its name, by which the sentence then calls it.
    adapter: TypeAdapter[Any] = TypeAdapter(kind if of_fields else Mapping[str, kind])
    try:
        found = adapter.validate_python(value if of_fields else {what: value})
    except ValidationError as error:
        sentence = explain(error, kind)
        if of_fields:
            sentence = f"{what}: {sentence.removeprefix(WHOLE)}"
        raise SpecError(sentence) from None
    return found if of_fields else found[what]


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
