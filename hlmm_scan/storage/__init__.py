"""Where stores lie: folders of this machine, or prefixes of object stores, used alike."""

from hlmm_scan.storage.attempts import retries, transient
from hlmm_scan.storage.opening import zarr_store
from hlmm_scan.storage.places import ObjectPath, Place, UnfinishedPath, absolute, place

__all__ = [
    "ObjectPath",
    "Place",
    "UnfinishedPath",
    "absolute",
    "place",
    "retries",
    "transient",
    "zarr_store",
]
