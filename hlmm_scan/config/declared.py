"""One definition of an option: a field whose metadata make its flag and its key in a file."""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hlmm_scan import storage
from hlmm_scan.errors import InputError, nearest
from hlmm_scan.shown import quoted

MOST = 2**31 - 1
"""Of anything that is counted."""


def option(default: Any, kind: str, text: str, **extra: Any) -> Any:
    """Declare an option as a field of a :class:`Group`.

    Parameters
    ----------
    default : Any
    kind : str
        How it is read: path, store (a path, or an address in an object store), paths, stores,
        name, names, choice, number, whole, yes_no.
    text : str
        For the help.
    **extra
        ``choices``; ``low`` and ``high``, between which a number is; ``short``, a flag of one
        letter; ``first``, True for what everybody needs.
    """
    return field(default=default, metadata={"kind": kind, "help": text, **extra})


@dataclass(frozen=True)
class Group:
    """Options that belong together: a section of the help, a part of the configuration."""

    title: ClassVar[str]

    def check(self) -> None:
        """Refuse options that do not go together.

        Raises
        ------
        InputError
        """


def check_value(declared: Field[Any], value: Any) -> None:
    """Refuse a value that is out of range, or none of the choices.

    Raises
    ------
    InputError
    """
    if value is None:
        return
    name, metadata = declared.name, declared.metadata
    low, high, choices = (metadata.get(key) for key in ("low", "high", "choices"))
    if metadata["kind"] == "whole" and not 1 <= value <= MOST:
        span = "1 or more" if value < 1 else f"at most {MOST:,}"
        raise InputError(f"{name} must be {span}, not {quoted(value)}")
    if low is not None and not low <= value <= (value if high is None else high):
        span = f"{low} or more" if high is None else f"between {low} and {high}"
        raise InputError(f"{name} must be {span}, not {value}")
    if choices and value not in choices:
        hint = nearest(str(value), choices)
        raise InputError(f"{name} must be one of {', '.join(choices)}, not {quoted(value)}{hint}")


def read_value(kind: str, key: str, value: Any, path: Path) -> Any:
    """Return the value of a key of a YAML file, checked against its kind.

    Parameters
    ----------
    kind : str
        As for :func:`option`.
    key : str
    value : Any
        As YAML has it, not None.
    path : Path
        The file; relative paths are relative to its folder.

    Raises
    ------
    InputError
    """

    def wrong(expected: str) -> InputError:
        return InputError(f"{path}: {key} must be {expected}, not {quoted(value)}")

    if kind == "path":
        if not isinstance(value, str):
            raise wrong("a path")
        return path.parent / _expanded(Path(value), key, path)
    if kind == "store":
        if not isinstance(value, str):
            raise wrong("a path")
        where = storage.place(value)
        return path.parent / _expanded(where, key, path) if isinstance(where, Path) else where
    if kind in ("paths", "stores"):
        items = value if isinstance(value, list) else [value]
        if (kind == "stores" and not items) or not all(isinstance(item, str) for item in items):
            raise wrong("a path or a list of paths")
        return tuple(read_value(kind.removesuffix("s"), key, item, path) for item in items)
    if kind == "names":
        items = value if isinstance(value, list) else [value]
        # YAML takes a bare no, off or true for a truth value: quotes make it a name.
        if not all(isinstance(i, str | int | float) and not isinstance(i, bool) for i in items):
            raise wrong("a name or a list of names")
        return tuple(str(item) for item in items)
    if kind == "yes_no":
        if not isinstance(value, bool):
            raise wrong("true or false")
        return value
    if kind == "whole":
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong("a whole number")
        return value
    if kind == "number":
        if isinstance(value, str):
            try:  # YAML reads 1e-4, without a point, as text
                return float(value)
            except ValueError:
                raise wrong("a number") from None
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong("a number")
        return float(value) if isinstance(value, float) else value
    if not isinstance(value, str):
        raise wrong("text")
    return value


def _expanded(path: Path, key: str, file: Path) -> Path:
    """Return a path with the home folder in place of ``~``."""
    if "\0" in str(path):
        raise InputError(f"{file}: {key} must be a path, not {quoted(str(path))}")
    try:
        return path.expanduser()
    except RuntimeError:  # of a user there is not
        raise InputError(f"{file}: {key}: there is no home folder {path.parts[0]}") from None
