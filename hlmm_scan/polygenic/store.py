"""A store of polygenic predictions while it is made: arrays, what is known of them, and the end."""

from __future__ import annotations

import itertools
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.errors import ZarrUserWarning

from hlmm_scan import __version__, schema
from hlmm_scan.cohort.backgrounds import FORMAT, KIND
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.polygenic.plan import SHARES, Part, Plan
from hlmm_scan.polygenic.task import PREDICTORS, Record
from hlmm_scan.storage import zarr_store
from hlmm_scan.storage.arrays import CheckedArray, compressors, seal
from hlmm_scan.storage.checksums import CHUNK, Manifest
from hlmm_scan.storage.places import MARK

_OF_TRAITS: dict[str, tuple[Part, str]] = {
    "n": ("mean", "n"),
    "cv_r2": ("mean", "cv_r2"),
    "heritability": ("mean", "heritability"),
    "log_variance_cv_r2": ("variance", "cv_r2"),
    "log_variance_heritability": ("variance", "heritability"),
}
"""Arrays of one number a trait, and which task found it under which name."""


def create(store: Path, plan: Plan, samples: SampleIds) -> None:
    """Make the arrays of a background and write who and what it is of, or write that again.

    Parameters
    ----------
    store : Path
        An empty folder, or one that an earlier process of the same plan left.
    plan : Plan
    samples : SampleIds
    """
    files = zarr_store(store)
    group = zarr.open_group(files, mode="a", zarr_format=3, use_consolidated=False)
    sizes = {
        "phenotype": len(plan.phenotypes),
        "contig": len(plan.chromosomes),
        "samples": plan.n_samples,
    }
    known: dict[str, Any] = {
        "phenotype": np.array(plan.phenotypes, object),
        "contig": np.array(plan.chromosomes, object),
        "sample_id": samples.individual_id,
        "sample_family_id": samples.family_id,
        "residual_sd": np.array(plan.residual_sd),
    }
    for variable in schema.BACKGROUND + schema.BACKGROUND_OF_VARIANCE * plan.variance:
        if variable.name in known and known[variable.name] is None:
            continue
        shape = tuple(sizes[dim] for dim in variable.dims)
        array = group.get(variable.name)
        if not isinstance(array, zarr.Array):
            array = group.create_array(
                variable.name,
                shape=shape,
                chunks=(1, *shape[1:]) if len(shape) > 1 else shape,
                dtype=str if variable.dtype == "str" else np.dtype(variable.dtype),
                fill_value=variable.fill_value,
                compressors=compressors(),
                dimension_names=variable.dims,
                attributes=variable.attributes(),
            )
        if variable.name in known:
            CheckedArray(array)[:] = known[variable.name]
    files.flush()


def create_predictors(working: Path, plan: Plan, n_people: int) -> None:
    """Make the array of level 0's predictors, unless an earlier process did."""
    files = zarr_store(working / PREDICTORS)
    group = zarr.open_group(files, mode="a", zarr_format=3, use_consolidated=False)
    if "predictors" not in group:
        shape = len(plan.blocks), len(plan.phenotypes), len(SHARES), n_people
        group.create_array(
            "predictors",
            shape=shape,
            chunks=(1, 1, *shape[2:]),
            dtype=np.dtype("int16"),
            compressors=compressors(),
        )
    files.flush()


def remove_unvouched(folder: Path, *, anything_done: bool) -> None:
    """Remove from a store what an earlier process was writing when it ended.

    Of what no record vouches for, a power cut may have left anything; it is written again.
    """
    if folder.is_dir() and not anything_done:
        shutil.rmtree(folder)
        folder.mkdir()
    for left in list(folder.rglob("*.partial")) if folder.is_dir() else ():
        left.unlink()


def finish(
    store: Path,
    records: Mapping[Part, Iterable[Record]],
    fingerprint: str,
    attributes: Mapping[str, Any],
) -> None:
    """Write what traits' tasks found, and seal the store.

    Parameters
    ----------
    store : Path
    records : mapping of {"mean", "variance"} to iterable of Record
        Of all traits.
    fingerprint : str
        What tells the store from others.
    attributes : mapping
        Provenance.
    """
    files = zarr_store(store)
    group = zarr.open_group(files, mode="r+", zarr_format=3, use_consolidated=False)
    traits = {p: sorted(of, key=lambda record: record.index) for p, of in records.items()}
    for name, (part, found) in _OF_TRAITS.items():
        array = group.get(name)
        if isinstance(array, zarr.Array):
            values = [record.found[found] for record in traits[part]]
            CheckedArray(array)[:] = np.array(values, array.dtype)
    manifest = Manifest(fingerprint)
    names = [name for name, _ in group.arrays()]
    for name in names:
        array = group[name]
        assert isinstance(array, zarr.Array)
        grid = (-(-s // max(c, 1)) for s, c in zip(array.shape, array.chunks, strict=True))
        manifest.make_room(name, tuple(grid))
        if name not in _OF_TRAITS and not name.endswith("prediction"):
            CheckedArray(array)[:] = array[:]  # noted with their checksums
    manifest.note({key: crc for key, crc in files.written.items() if CHUNK in key})
    for record in itertools.chain(*traits.values()):
        manifest.note(record.chunks)
    mark: dict[str, Any] = {
        "kind": KIND,
        "format": FORMAT,
        "version": __version__,
        "checksums": True,
        "fingerprint": fingerprint,
    }
    group.attrs.update({MARK: mark, "coordinates": _coordinates(names), **attributes})
    with warnings.catch_warnings():
        # Zarr says that other readers may not know consolidated metadata; they need not.
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        zarr.consolidate_metadata(files)
    seal(files, manifest, names)
    files.flush()


def _coordinates(names: Iterable[str]) -> str:
    return " ".join(name for name in ("sample_id", "sample_family_id") if name in names)
