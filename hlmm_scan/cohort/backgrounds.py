"""Stores of polygenic predictions that ``hlmm-scan polygenic`` writes, as readers find them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import zarr

from hlmm_scan.array_types import Float
from hlmm_scan.errors import InputError, nearest
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.shown import one_line
from hlmm_scan.staging import read_error, stands
from hlmm_scan.storage import Place, zarr_store
from hlmm_scan.storage.arrays import CheckedArray
from hlmm_scan.storage.checksums import MANIFEST, Checks, Manifest, every_chunk, read_document
from hlmm_scan.storage.places import MARK, ROOT

KIND = "background"
LOG_VARIANCE = "log_variance_prediction"
FORMAT = 1
REMEDY = "make the background again"


def mark_of(path: Place) -> Mapping[str, Any] | None:
    """Return our mark on what stands at a place; None where there is none.

    Raises
    ------
    HlmmScanError
        If it is damaged or cannot be read.
    """
    try:
        document = read_document(path)
    except OSError as error:
        raise read_error(path, error) from error
    attributes = (document or {}).get("attributes")
    mark = attributes.get(MARK) if isinstance(attributes, dict) else None
    return mark if isinstance(mark, dict) else None


def is_background(path: Place) -> bool:
    """Return whether a store of predictions stands at a place."""
    return stands(path) and (mark_of(path) or {}).get("kind") == KIND


class StoredBackground:
    """Predictions of traits from the other chromosomes.

    Parameters
    ----------
    path : Path or ObjectPath

    Raises
    ------
    InputError
        If there is no such store, or it is of a newer format.
    """

    def __init__(self, path: Place) -> None:
        if not stands(path):
            raise InputError(f"{path}: no such file or folder")
        mark = mark_of(path) or {}
        if mark.get("kind") != KIND:
            raise InputError(f"{path}: no polygenic background (hlmm-scan polygenic makes them)")
        if mark.get("format") != FORMAT:
            raise InputError(
                f"{path}: a background of format {mark.get('format')}, but this version reads "
                f"format {FORMAT}; {REMEDY}"
            )
        self.path = path
        checks = Checks(
            path,
            REMEDY,
            manifest=lambda: Manifest.read(path, f"{MANIFEST}/{ROOT}"),
            whole=every_chunk,
            own=(ROOT,),
        )
        store = zarr_store(path, read_only=True, checks=checks)
        self.group = zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=False)

    def array(self, name: str) -> CheckedArray:
        """Return an array of the store."""
        found = self.group[name]
        assert isinstance(found, zarr.Array)
        return CheckedArray(found)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attributes: parameters, inputs, software."""
        return self.group.attrs.asdict()

    @property
    def fingerprint(self) -> str:
        """What tells the store from others: a digest of all that its numbers depend on."""
        return str(self.attributes[MARK]["fingerprint"])

    @cached_property
    def phenotypes(self) -> list[str]:
        """Names of the phenotypes."""
        return [str(name) for name in self.array("phenotype")[:]]

    @cached_property
    def chromosomes(self) -> list[str]:
        """Chromosomes left out."""
        return [str(name) for name in self.array("contig")[:]]

    @cached_property
    def samples(self) -> SampleIds:
        """People of the genotypes that predict."""
        family = None
        if "sample_family_id" in self.group:
            family = self.array("sample_family_id")[:].astype(object)
        return SampleIds(self.array("sample_id")[:].astype(object), family)

    def index(self, phenotype: str) -> int:
        """Return the number of a phenotype.

        Raises
        ------
        InputError
            If it has no predictions.
        """
        if phenotype not in self.phenotypes:
            some = ", ".join(one_line(other, 80) for other in self.phenotypes[:8])
            hint = nearest(phenotype, self.phenotypes) or f"; it has {some}"
            left_out = self.attributes.get("phenotypes_left_out", {}).get(phenotype)
            why = f" (it was left out: {left_out})" if left_out else hint
            raise InputError(f"{self.path}: no predictions of phenotype '{phenotype}'{why}")
        return self.phenotypes.index(phenotype)

    @property
    def of_variance(self) -> bool:
        """Whether there are predictions of log-variances as well."""
        return LOG_VARIANCE in self.group

    def predictions(self, phenotype: str, name: str = "prediction") -> Float:
        """Return the predictions of one phenotype, shape (chromosomes, n_samples).

        Parameters
        ----------
        phenotype : str
        name : str, default "prediction"
            Of the array; :data:`LOG_VARIANCE` for those of the log-variance.

        Raises
        ------
        InputError
            If there are none.
        DamagedError
            If they cannot be read.
        """
        found = self.array(name)[self.index(phenotype)]
        return np.asarray(found, np.float64)
