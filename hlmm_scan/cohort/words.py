"""What a cell means that is no number: missing, a number in disguise, or a word."""

from __future__ import annotations

import math
import re
import shlex
import unicodedata
from collections.abc import Collection, Iterable

MISSING_WORDS = frozenset((
    ".", "..", "...", "-", "--", "---", "?", "*", "/", "\\n", "none", "null", "nil", "nul",
    "nat", "void", "n/a", "#n/a", "#na", "n.a", "n.a.", "na.", "n.d.", "nd", "<na>", "(na)",
    "[na]", "(null)", "[null]", "<null>", "#null!", "#value!", "#div/0!", "#ref!", "#name?",
    "#num!", "-nan", "+nan", "nan(ind)", "-nan(ind)", "1.#ind", "-1.#ind", "1.#qnan",
    "-1.#qnan", "missing", "miss", "unknown", "unk", "undef", "undefined", "blank", "empty",
    "(missing)", "(blank)", "(empty)", "nodata", "no_data", "not_available", "not_applicable",
    "not_known", "not_recorded",
))  # fmt: skip
"""Usual words for missing, in small letters, blanks as underscores."""

MISSING_CODES = frozenset(
    {-1, -2, -3, -4, -5, -6, -7, -8, -9, -10, -77, -88, -99, -777, -888, -999, -9999, -99999}
    | {77, 88, 99, 777, 888, 999, 8888, 9999, 99999}
)
"""Numbers that stand for missing in many tables, PLINK's −9 among them."""

_UNITS = frozenset((
    "y", "yr", "yrs", "year", "years", "mo", "mon", "month", "months", "w", "wk", "wks",
    "week", "weeks", "d", "day", "days", "h", "hr", "hrs", "hour", "hours", "min", "mins", "s",
    "sec", "secs", "kg", "g", "mg", "ug", "lb", "lbs", "st", "oz", "m", "cm", "mm", "km", "in",
    "ft", "l", "dl", "ml", "%", "kg/m2", "mg/dl", "mmol/l", "mmhg", "iu", "$", "€", "£", "¥",
))  # fmt: skip
_ORDINALS = frozenset({"st", "nd", "rd", "th"})
_NUMBER = r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d+)?"
_LETTER = r"[^\W\d_]"
_UNIT = rf"(?:{_LETTER}|[%°$€£¥])(?:{_LETTER}|[%°/^.]|(?<=[a-z/])[23])*"
_WITH_UNIT = re.compile(rf"{_NUMBER}\s*({_UNIT})", re.IGNORECASE)
_WITH_CURRENCY = re.compile(rf"([$€£¥])\s*{_NUMBER}", re.IGNORECASE)
_FORTRAN = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+)d[+-]?\d+", re.IGNORECASE)
_POINTS_AND_SIGNS = str.maketrans("·٫−–", "..--")
_FEW_LEVELS = 5

LONGEST_SHOWN = 80


def number(cell: str) -> float:
    """Return the number in a cell, NaN where there is none."""
    # float() also takes 1_000 and digits of other scripts, which no other program would.
    if "_" in cell or not cell.isascii():
        return math.nan
    try:
        return float(cell)
    except ValueError:
        return math.nan


def looks_missing(cell: str) -> bool:
    """Return whether a cell is one of the usual words for missing."""
    return "_".join(cell.lower().split()) in MISSING_WORDS


def disguise(cell: str) -> str:
    """Return what keeps a cell from being a number: ``,``, ``kg`` …; empty for a word.

    Parameters
    ----------
    cell : str
        No number.
    """
    plain = unicodedata.normalize("NFKC", cell).translate(_POINTS_AND_SIGNS)
    plain = "".join(str(unicodedata.decimal(letter, letter)) for letter in plain)
    if not math.isnan(number(plain)):
        return "unusual letters"
    digits = re.sub(r"(?<=\d)[\s'’_](?=\d{3})", "", plain)
    if "," in digits and not math.isnan(number(re.sub(r"[.,]", "", digits))):
        return ","
    if digits != plain and not math.isnan(number(digits)):
        return "grouped digits"
    if _FORTRAN.fullmatch(plain):
        return "exponent d"
    if found := _WITH_UNIT.fullmatch(digits):
        return "" if found[1].lower() in _ORDINALS else found[1]
    if found := _WITH_CURRENCY.fullmatch(digits):
        return found[1]
    return ""


def numbers_in_disguise(levels: Collection[str]) -> list[str]:
    """Return those cells of a column of words that were meant for numbers.

    A comma alone says so. A letter after a number does where it is a unit: a known one, or the
    same everywhere. Stages as 1A, 1B and 2A are words.

    Parameters
    ----------
    levels : collection of str
        The different cells of the column, without the missing ones.
    """
    kinds = {level: disguise(level) for level in levels if math.isnan(number(level))}
    found = [level for level, kind in kinds.items() if kind]
    units = {kind.lower() for kind in kinds.values() if kind and not _spelling(kind)}
    as_units = len(units) == 1 or units <= _UNITS
    if as_units and (len(found) == len(levels) or len(found) >= _FEW_LEVELS):
        return found
    return [level for level in found if _spelling(kinds[level])]


def _spelling(kind: str) -> bool:
    return kind == "," or " " in kind


def advice(cells: Iterable[str], column: str, option: str, *, words: bool) -> str:
    """Return what is wrong with the first of some cells, and what to do about all of them.

    Parameters
    ----------
    cells : iterable of str
        Different cells of one column that are not what it holds.
    column : str
    option : str
        How a column of levels is named; empty where there is no such way.
    words : bool
        Whether the column holds words.
    """
    cells = list(cells)
    first = cells[0]
    value = number(first)
    as_levels = f"{option} {shown(column)} takes the column's cells for levels" if option else ""
    if math.isinf(value):
        return "is not finite"
    if looks_missing(first):
        missing = list(dict.fromkeys(cell for cell in cells if looks_missing(cell)))[:8]
        said = f"usually means missing: --missing-value={shlex.quote(','.join(missing))} says so"
        return f"{said}; {as_levels}" if words and as_levels else f"is not a number, and {said}"
    if not math.isnan(value):
        wrong = "is a number in a column that begins with words"
        return f"{wrong}; {as_levels}" if as_levels else wrong
    kind = disguise(first)
    if kind == ",":
        wrong = "is a number but for its comma: decimals need a point, thousands nothing"
    elif kind and " " in kind:
        wrong = f"is a number but for its {kind}: write it as 1234.5 or 1e-5"
    elif kind:
        wrong = f"is a number but for '{kind}': write numbers alone"
    else:
        wrong = "is not a number"
    return f"{wrong}; {as_levels}" if as_levels else wrong


def shown(cell: str, most: int = LONGEST_SHOWN) -> str:
    """Return a cell as messages quote it: short, and without what a terminal would obey."""
    text = cell if len(cell) <= most else f"{cell[:most]}…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
