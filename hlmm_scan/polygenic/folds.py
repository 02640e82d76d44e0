"""Folds of people for cross-validation, by a hash of their ids."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_HASH_BYTES = 8


def folds_of(ids: Iterable[str], count: int) -> NDArray[np.int8]:
    """Return the fold of each person, shape (n,).

    It depends on the person's id alone, so nobody changes folds where people are added.

    Parameters
    ----------
    ids : iterable of str
        IIDs.
    count : int
        Folds, at most 127.
    """
    hashes = (hashlib.blake2b(one.encode(), digest_size=_HASH_BYTES).digest() for one in ids)
    return np.array([int.from_bytes(found, "big") % count for found in hashes], np.int8)
