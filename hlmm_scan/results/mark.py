"""Our mark on the root of a Zarr group: whether it is a result store, and of which format."""

from __future__ import annotations

from typing import Any

from hlmm_scan.staging import read_error
from hlmm_scan.storage import Place
from hlmm_scan.storage.places import MARK, ROOT, read_json

CHECKSUMS = "checksums"
"""In our mark: whether the store was made with checksums."""

REMEDY = "restore the store from a copy, or start the scan anew with --overwrite"


def read_mark(path: Place) -> dict[str, Any] | None:
    """Return our mark on a Zarr group, or None where there is none; damaged groups have it too.

    Raises
    ------
    HlmmScanError
        If an object store does not answer, or refuses.
    """
    metadata = read_root(path)
    attributes = metadata.get("attributes") if isinstance(metadata, dict) else None
    mark = attributes.get(MARK) if isinstance(attributes, dict) else None
    return mark if isinstance(mark, dict) else None


def read_root(path: Place) -> Any:
    """Return the metadata of a root, None where there are none that make sense.

    Raises
    ------
    HlmmScanError
        If an object store does not answer, or refuses.
    """
    try:
        return read_json(path / ROOT)
    except OSError as error:
        raise read_error(path, error) from error
