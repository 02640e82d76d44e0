"""YAML files that people write: a mapping of keys, read so that nothing in it surprises.

YAML takes ``2020-01-31`` for a date, ``6:25`` for the number 385, ``007`` for 7 and, of two equal
keys, the last. Here dates and sums of sixties stay the text that they are, and a key that stands
twice is an error.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from hlmm_scan.errors import InputError
from hlmm_scan.shown import one_line
from hlmm_scan.textfiles import as_text

MOST_BYTES = 1 << 20
"""Of a file; what people write is a thousandth of it."""

MOST_NODES = 100_000
"""Of its content, what is repeated by anchors counted as often as it stands there."""

_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_DIGITS = 18


class _Written(float):
    """A number that is shown as it was written: a column may have the name 1.10."""

    _text: str

    def __new__(cls, value: float, text: str) -> _Written:
        number = super().__new__(cls, value)
        number._text = text
        return number

    def __str__(self) -> str:
        return self._text


class _Loader(yaml.SafeLoader):
    """Safe YAML whose numbers are decimal and whose dates are text."""


_INT, _FLOAT, _TEXT = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "str"))
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag not in ("tag:yaml.org,2002:timestamp", _INT)
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_INT, re.compile(rf"^(?:{_WHOLE.pattern})$"), list("-+0123456789"))


def _number(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> Any:
    """Return a number, or the text where it is none that a configuration can mean."""
    text = str(node.value)
    if node.tag == _INT:
        return int(text) if _WHOLE.fullmatch(text) and len(text) <= _DIGITS else text
    return text if ":" in text else _Written(loader.construct_yaml_float(node), text)


_Loader.add_constructor(_INT, _number)
_Loader.add_constructor(_FLOAT, _number)


def read_yaml(path: Path) -> list[Any]:
    """Return the documents of a YAML file.

    Raises
    ------
    InputError
        In one line, if it cannot be read, is no YAML, or holds more than anybody means.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    return parse_yaml(content, path)


def parse_yaml(content: bytes, path: Path) -> list[Any]:
    """Return the documents of YAML text; `path` is for messages.

    Raises
    ------
    InputError
        As :func:`read_yaml`.
    """
    if len(content) > MOST_BYTES:
        raise InputError(f"{path}: longer than {MOST_BYTES >> 20} MiB: this is no configuration")
    loader = None
    try:
        loader = _Loader(as_text(content, path))
        documents = []
        while loader.check_node():
            node = loader.get_node()
            _count(node, path, {})
            documents.append(loader.construct_document(node))
    except RecursionError:
        raise InputError(f"{path}: brackets or lists within one another too deep") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place else ""
        raise InputError(f"{path}{line}: not valid YAML") from None
    finally:
        if loader is not None:
            loader.dispose()
    return documents


def read_mapping(path: Path, example: str = "'key: value' lines") -> dict[Any, Any]:
    """Return the one mapping of a YAML file; an empty one of an empty file.

    Raises
    ------
    InputError
        As :func:`read_yaml`, or if there is anything else in it.
    """
    documents = [document for document in read_yaml(path) if document is not None]
    if not documents:
        return {}
    if len(documents) > 1 or not isinstance(documents[0], dict):
        raise InputError(f"{path}: expected {example}")
    return documents[0]


def _count(node: yaml.Node | None, path: Path, known: dict[int, int]) -> int:
    """Return how many nodes there are, anchors followed, and see that no key stands twice."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) in known:
        if not known[id(node)]:
            raise InputError(f"{path}, line {node.start_mark.line + 1}: an anchor within itself")
        return known[id(node)]
    known[id(node)] = 0
    total = 1
    seen: set[Hashable] = set()
    for member in node.value:
        for part in member if isinstance(member, tuple) else (member,):
            total += _count(part, path, known)
        if total > MOST_NODES:
            raise InputError(f"{path}: more than {MOST_NODES:,} values: this is no configuration")
        if isinstance(member, tuple) and isinstance(member[0], yaml.ScalarNode):
            key = member[0].value
            if key in seen:
                where = f"{path}, line {member[0].start_mark.line + 1}"
                raise InputError(f"{where}: the key '{one_line(key, 80)}' stands there twice")
            seen.add(key)
    known[id(node)] = total
    return total
