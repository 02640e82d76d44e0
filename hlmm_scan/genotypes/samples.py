"""Who is in a genotype dataset: family and individual ids, and sex."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

StrArray = NDArray[np.object_]


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

    individual_id: StrArray
    family_id: StrArray | None = None
    sex: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))

    def __post_init__(self) -> None:
        if self.sex.size == 0:
            object.__setattr__(self, "sex", np.zeros(len(self.individual_id), np.int8))

    def __len__(self) -> int:
        return len(self.individual_id)


def repeated_id(ids: StrArray) -> str | None:
    """Return the first id that stands a second time, None where all are unique."""
    seen: set[str] = set()
    for name in ids.tolist():
        if name in seen:
            return str(name)
        seen.add(name)
    return None
