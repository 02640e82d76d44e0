"""Columns as users name them: by name, as a range PC1-PC10, by a pattern prot_*."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from hlmm_scan.cohort.words import shown
from hlmm_scan.errors import InputError, nearest

_NUMBER = r"[0-9]{1,9}"
_RANGE = re.compile(rf"(?P<stem>.*?)(?P<first>{_NUMBER})-(?P=stem)(?P<last>{_NUMBER})", re.DOTALL)
_WILD = {"*": ".*", "?": "."}
_NAMES_TOLD = 8


def named(wishes: Collection[str], columns: Sequence[str]) -> list[str]:
    """Return the columns that any wish names; wishes that name none are passed over.

    Parameters
    ----------
    wishes : collection of str
        Each the name of a column, upper and lower case as in the table; or, where no column is
        called so, a range of numbered ones (``PC1-PC10``, in the order of the numbers) or a
        pattern with ``*`` for any text and ``?`` for any character (in the order of the table).
    columns : sequence of str
        All there are.

    Returns
    -------
    list of str
        In the order of the wishes, each column once.
    """
    there = dict.fromkeys(columns)
    found: dict[str, None] = {}
    for wish in wishes:
        found |= dict.fromkeys(_named_by(wish, there))
    return list(found)


def chosen(wishes: Sequence[str], columns: Sequence[str], kind: str, where: str) -> list[str]:
    """Return the columns that wishes name, each of which must name some.

    Parameters
    ----------
    wishes, columns
        As for :func:`named`.
    kind : str
        What an error message calls such a column, for example "mean covariate".
    where : str
        What it calls the table.

    Raises
    ------
    InputError
        If no column is named so, with the nearest name; or one of a range is not there.
    """
    there = dict.fromkeys(columns)
    for wish in wishes:
        if not _named_by(wish, there):
            raise unknown(wish, columns, kind, where)
        span = None if wish in there else _RANGE.fullmatch(wish)
        if span is not None:
            numbers = {number for number, _ in _numbered(span["stem"], there)}
            for number in range(int(span["first"]), int(span["last"]) + 1):
                if number not in numbers:
                    raise InputError(
                        f"{kind} '{shown(wish)}': no column '{span['stem']}{number}' in {where}"
                    )
    return named(wishes, columns)


def unknown(name: str, columns: Sequence[str], kind: str, where: str) -> InputError:
    """Return the error of a name that is no column's, with the nearest name or those there are."""
    several = all(part.strip() in columns for part in name.split(","))
    hint = "; repeat the option for each column" if several else nearest(name, columns)
    if not hint and columns:
        more = len(columns) - _NAMES_TOLD
        hint = f"; it has {', '.join(shown(column) for column in columns[:_NAMES_TOLD])}"
        hint += f" and {more:,} more" if more > 0 else ""
    return InputError(f"unknown {kind} '{shown(name)}' in {where}{hint}")


def _named_by(wish: str, there: dict[str, None]) -> list[str]:
    """Return the columns that one wish names."""
    if wish in there:
        return [wish]
    span = _RANGE.fullmatch(wish)
    if span is not None:
        within = range(int(span["first"]), int(span["last"]) + 1)
        return [name for number, name in _numbered(span["stem"], there) if number in within]
    if not _WILD.keys() & set(wish):
        return []
    pattern = re.compile("".join(_WILD.get(c, re.escape(c)) for c in wish), re.DOTALL)
    return [name for name in there if pattern.fullmatch(name)]


def _numbered(stem: str, there: Iterable[str]) -> list[tuple[int, str]]:
    """Return the columns of a stem and a number, in the order of the numbers."""
    pattern = re.compile(re.escape(stem) + f"({_NUMBER})")
    matches = [match for name in there if (match := pattern.fullmatch(name))]
    return sorted((int(match[1]), match[0]) for match in matches)
