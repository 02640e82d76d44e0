"""Digests of the values of a partition, which a ledger records and readers compare."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def checksum(values: Mapping[str, NDArray[Any]], names: Iterable[str]) -> str:
    """Return a digest of the named arrays, in that order: little-endian bytes, lines of text."""
    digest = hashlib.blake2b(digest_size=12)
    for name in names:
        column = values[name]
        digest.update(name.encode())
        if column.dtype.kind not in "biuf":  # text
            digest.update("\n".join(map(str, column)).encode())
            continue
        digest.update(np.ascontiguousarray(column, column.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def combined(checksums: Sequence[str]) -> str:
    """Return the checksum of a partition of several phenotypes, from those of each."""
    if len(checksums) == 1:
        return checksums[0]
    return hashlib.blake2b("".join(checksums).encode(), digest_size=12).hexdigest()
