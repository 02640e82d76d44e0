"""Who is in a genotype dataset: family and individual ids, and sex."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Strings
from hlmm_scan.errors import InputError

logger = logging.getLogger(__name__)


MALE, FEMALE, UNKNOWN = 1, 2, 0
"""PLINK's codes of sex."""

SEX_COLUMNS = frozenset({"sex", "gender"})
"""Names, in small letters, of columns that hold it."""

_SEX = {
    **dict.fromkeys(("1", "m", "male", "man", "men", "boy", "xy"), MALE),
    **dict.fromkeys(("2", "f", "female", "woman", "women", "girl", "xx"), FEMALE),
    **dict.fromkeys(
        ("0", "-9", "", ".", "-", "?", "na", "n/a", "nan", "none", "null", "u"),
        UNKNOWN,
    ),
    **dict.fromkeys(
        ("unk", "unknown", "ambiguous", "missing", "other", "not available", "undetermined"),
        UNKNOWN,
    ),
    **dict.fromkeys(("not applicable", "not known", "not recorded", "indeterminate"), UNKNOWN),
}


@dataclass(frozen=True)
class SampleIds:
    """Ids of people in the order of a file or array axis.

    Attributes
    ----------
    individual_id : ndarray of object (str), shape (n,)
        Within-family (individual) ids, PLINK's IID.
    family_id : ndarray of object (str), shape (n,), or None
        Family ids, PLINK's FID; None where the source has none.
    sex : ndarray of int8, shape (n,)
        1 male, 2 female, 0 unknown (PLINK's codes).
    """

    individual_id: Strings
    family_id: Strings | None = None
    sex: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))

    def __post_init__(self) -> None:
        if self.sex.size == 0:
            object.__setattr__(self, "sex", np.zeros(len(self.individual_id), np.int8))

    def __len__(self) -> int:
        return len(self.individual_id)


def parted(samples: SampleIds, delimiter: str, path: Path) -> SampleIds:
    """Take ids apart that are FID and IID in one, as plink2's VCF export writes them.

    Parameters
    ----------
    samples : SampleIds
        Without family ids.
    delimiter : str
        One character. Where it stands in an id more than once, FID and IID must be the same.
    path : Path
        For messages.

    Raises
    ------
    InputError
        If there are family ids already, or an id cannot be taken apart without doubt.
    """
    if len(delimiter) != 1:
        raise InputError(f"id_delim must be one character, as _, not '{delimiter}'")
    if samples.family_id is not None:
        raise InputError(f"{path}: its people have FID and IID apart already; leave --id-delim out")
    pairs = [halves(name, delimiter) for name in samples.individual_id.tolist()]
    for name, pair in zip(samples.individual_id.tolist(), pairs, strict=True):
        if pair is None:
            raise InputError(
                f"{path}: --id-delim {delimiter}: '{name}' is not an FID and an IID with one "
                f"'{delimiter}' between them"
            )
    family = np.array([pair[0] for pair in pairs if pair], dtype=object)
    individual = np.array([pair[1] for pair in pairs if pair], dtype=object)
    return SampleIds(individual, family, samples.sex)


def halves(name: str, delimiter: str) -> tuple[str, str] | None:
    """Return the FID and IID of an id that is both; None where it cannot be told."""
    middle = len(name) // 2
    same = name[:middle], name[middle + 1 :]
    if same[0] and same[0] == same[1] and name[middle] == delimiter:
        return same
    family, _, individual = name.partition(delimiter)
    return (family, individual) if family and individual and name.count(delimiter) == 1 else None


def repeated_id(ids: Strings) -> str | None:
    """Return the first id that stands a second time, None where all are unique."""
    seen: set[str] = set()
    for name in ids.tolist():
        if name in seen:
            return str(name)
        seen.add(name)
    return None


def sex_code(word: str) -> int | None:
    """Return PLINK's code of a sex, however it is written; None for what is none.

    1, M and male are male, 2, F and female female, in small letters or capitals, numbers also as
    1.0; 0, −9, NA, nothing and the like are unknown.
    """
    plain = word.strip().lower().replace("_", " ")
    whole, dot, zeros = plain.partition(".")
    if dot and whole and not zeros.strip("0"):
        plain = whole
    return _SEX.get(plain)


class SexWords:
    """Sex as the cells of a genotype file's table of people say it; other words are told of once.

    Parameters
    ----------
    path : Path
        For the message.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unknown: list[tuple[int, str]] = []

    def code(self, cell: str, line: int) -> int:
        """Return PLINK's code; 0 for a word that is no sex."""
        code = sex_code(cell)
        if code is None:
            self._unknown.append((line, cell))
        return code or UNKNOWN

    def tell(self) -> None:
        """Warn of words that are no sex."""
        if self._unknown:
            line, cell = self._unknown[0]
            logger.warning(
                "%s: the sex of %d people is none that is known (line %d: '%s'), and taken as "
                "unknown; write 1 or male, 2 or female, 0 or NA",
                self.path,
                len(self._unknown),
                line,
                cell[:40],
            )
