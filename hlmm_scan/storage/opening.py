"""The Zarr store at a place, by the library that reads and writes such places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hlmm_scan.storage.places import (
    UNFINISHED_ROOT,
    ObjectPath,
    OwnedPath,
    Place,
    UnfinishedPath,
    client,
)

if TYPE_CHECKING:
    from hlmm_scan.storage.checksums import Checks
    from hlmm_scan.storage.zarr_files import ZarrFiles
    from hlmm_scan.storage.zarr_objects import ZarrObjects


def zarr_store(
    where: Place, *, read_only: bool = False, checks: Checks | None = None
) -> ZarrFiles | ZarrObjects:
    """Return the Zarr store at a place, which need not exist.

    Parameters
    ----------
    where : Path or ObjectPath
    read_only : bool, default False
    checks : Checks, optional
        Of what is read.

    Raises
    ------
    InputError
        If it is an address and the extra `object-stores` is not installed.
    """
    if isinstance(where, ObjectPath):
        below = client(where.url)
        from hlmm_scan.storage.zarr_objects import ZarrObjects

        if isinstance(where, UnfinishedPath):
            return ZarrObjects(below, where.url, root=UNFINISHED_ROOT, check=where.check)
        if isinstance(where, OwnedPath):
            return ZarrObjects(
                below, where.url, read_only=read_only, ours=where.check, checks=checks
            )
        return ZarrObjects(below, where.url, read_only=read_only, checks=checks)
    from hlmm_scan.storage.zarr_files import ZarrFiles

    return ZarrFiles(where, read_only=read_only, checks=checks)
