"""VCF-Zarr stores of other programs, read as they are.

https://github.com/sgkit-dev/vcf-zarr-spec, in Zarr formats 2 and 3, as bio2zarr and sgkit write
them. Chunks that are absent hold fill values there; that one was lost cannot be seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from hlmm_scan.array_types import Strings
from hlmm_scan.errors import DamagedError, InputError
from hlmm_scan.genotypes.arrays import StoredArrays, open_group
from hlmm_scan.genotypes.blocks import FINEST, Dosages, GenotypeBlock, HardCalls
from hlmm_scan.genotypes.calls import (
    WrongValueError,
    copies_of_alleles,
    encode_dosages,
    information,
)
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.genotypes.packing import MISSING_BYTE, pack, packed_width
from hlmm_scan.genotypes.readers.dosage_fields import Copies, copies_of_variant, probabilities
from hlmm_scan.genotypes.samples import SampleIds, repeated_id
from hlmm_scan.genotypes.variants import MoreThanTwoAlleles, VariantTable
from hlmm_scan.storage import ObjectPath, Place, place

GENOTYPES = "call_genotype"
DOSAGES = ("call_DS", "call_dosage")
HAPLOTYPES = ("call_HDS",)
PROBABILITIES = ("call_GP", "call_genotype_probability")
"""Of bio2zarr and of sgkit."""

FIELDS = (*DOSAGES, *HAPLOTYPES, *PROBABILITIES, GENOTYPES)

REMEDY = "make the store again"

_CONTIGS, _CONTIGS_OF_OLD = "contig_id", "contigs"
"""Names of chromosomes: an array, or an attribute of the group in stores of older sgkit."""

DESCRIBING = ("variant_contig", "variant_position", "variant_allele", "sample_id")
_CHECKED_AT_ONCE = 65_536


def is_vcf_zarr(group: zarr.Group) -> bool:
    """Return whether a group has what a VCF-Zarr store with genotypes or dosages must have."""
    calls = any(name in group for name in FIELDS)
    contigs = _CONTIGS in group or _CONTIGS_OF_OLD in group.attrs
    return calls and contigs and all(name in group for name in DESCRIBING)


class VcfZarrDataset(GenotypeDataset):
    """A VCF-Zarr store as a genotype dataset.

    Dosages are taken where the store has ``call_DS`` or ``call_dosage``, else from haplotype
    dosages or genotype probabilities, else genotypes. The second allele counts; a store with
    records of more is refused.

    Attributes
    ----------
    fingerprint : str
        Over metadata, people and variants as they are stored; calls are not read for it.
    """

    @classmethod
    def open(cls, path: Place | str) -> VcfZarrDataset:
        """Open a store for which :func:`is_vcf_zarr` holds.

        Raises
        ------
        InputError
            If it cannot be read as biallelic calls of one or two chromosomes a person.
        """
        path = place(path)
        group = open_group(path, whole=False, remedy=REMEDY)
        assert group is not None
        return cls(path, group)

    def __init__(self, path: Place, group: zarr.Group) -> None:
        self.path = path
        arrays = self._arrays = StoredArrays(path, group, remedy=REMEDY)
        self._field = next(name for name in FIELDS if name in group)
        self.unit = 0.0 if self._field == GENOTYPES else FINEST
        calls = arrays[self._field]
        self.n_variants, self.n_samples = int(calls.shape[0]), int(calls.shape[1])
        self.chunk_variants = int(min(calls.chunks[0], max(1, self.n_variants)))
        if not self.n_variants or not self.n_samples:
            raise InputError(f"{path}: no variants or no people in it")
        most = 1 if self._field in DOSAGES else 3 if self._field in PROBABILITIES else 2
        if calls.ndim == 3 and calls.shape[2] > most:
            raise InputError(
                f"{path}: {self._field} has {calls.shape[2]} values a person; calls of one or two "
                "chromosomes, or one dosage, are read"
            )
        for name, length in (("sample_id", self.n_samples), ("variant_position", self.n_variants)):
            if arrays[name].shape != (length,):
                raise InputError(
                    f"{path}: {name} has shape {arrays[name].shape} where {self._field} has "
                    f"{length}; {REMEDY}"
                )
        if repeated := repeated_id(self.samples.individual_id):
            raise InputError(f"{path}: sample id {repeated} stands twice; they must be unique")
        self._refuse_more_alleles()
        self.fingerprint = self._fingerprint()

    @property
    def taken_from(self) -> str:
        """What of the store its genotypes are, for messages."""
        return self._field

    @cached_property
    def samples(self) -> SampleIds:
        """People in the order of the calls; the format knows neither family nor sex."""
        return SampleIds(self._arrays.text("sample_id"))

    @cached_property
    def contigs(self) -> tuple[str, ...]:
        """Chromosomes that have variants, in the order in which they first appear."""
        return tuple(self._contig_names[index] for index in self._used_contigs.tolist())

    @cached_property
    def _contig_names(self) -> tuple[str, ...]:
        if _CONTIGS in self._arrays:
            return tuple(map(str, self._arrays.text(_CONTIGS)))
        stored = self._arrays.group.attrs[_CONTIGS_OF_OLD]
        if not isinstance(stored, list):
            raise InputError(f"{self.path}: its attribute '{_CONTIGS_OF_OLD}' is no list of names")
        return tuple(map(str, stored))

    @cached_property
    def _used_contigs(self) -> NDArray[np.int64]:
        used, first = np.unique(self._arrays.read("variant_contig"), return_index=True)
        if used[0] < 0 or used[-1] >= len(self._contig_names):
            raise InputError(
                f"{self.path}: variant_contig points outside the names of contigs; {REMEDY}"
            )
        return used[np.argsort(first)].astype(np.int64)

    def variant_contig(self) -> NDArray[np.int16]:
        """Return the index into `contigs` of every variant, shape (m,)."""
        place_of = np.zeros(len(self._contig_names), dtype=np.int16)
        place_of[self._used_contigs] = np.arange(len(self._used_contigs))
        index: NDArray[np.int16] = place_of[self._arrays.read("variant_contig")]
        return index

    def variants(self, start: int, stop: int) -> VariantTable:
        """Return the variant table of variants ``start`` to ``stop`` (exclusive)."""
        alleles = self._arrays.text("variant_allele", start, stop)
        # A record without an alternative allele has an empty second one here, "." in VCF.
        effect = alleles[:, 1] if alleles.shape[1] > 1 else np.full(len(alleles), "", dtype=object)
        effect = np.where(effect == "", ".", effect).astype(object)
        loci = self.loci(start, stop)
        return VariantTable(
            contig=loci.contig,
            position=loci.position,
            variant_id=self.variant_ids(start, stop),
            other_allele=alleles[:, 0],
            effect_allele=effect,
        )

    def variant_ids(self, start: int, stop: int) -> Strings:
        """Return the ids of variants ``start`` to ``stop``; "." where the store has none."""
        if "variant_id" in self._arrays:
            return self._arrays.text("variant_id", start, stop)
        return np.full(stop - start, ".", dtype=object)

    def read_block(self, start: int, stop: int) -> GenotypeBlock:
        """Read variants ``start`` to ``stop`` (exclusive) as kernels take them."""
        if self._field != GENOTYPES:
            return self._read_dosages(start, stop)
        packed = np.full((stop - start, packed_width(self.n_samples)), MISSING_BYTE, np.uint8)
        for columns in self._columns(4):
            calls = self._calls(start, stop, columns)
            packed[:, columns.start // 4 : -(-columns.stop // 4)] = pack(
                self._said(copies_of_alleles, calls, start, None, columns)
            )
        return HardCalls(packed, self.n_samples)

    def info(self, start: int, stop: int) -> NDArray[np.float64] | None:
        """Return the imputation information, where the store has dosages and probabilities."""
        name = next((name for name in PROBABILITIES if name in self._arrays), None)
        if self._field == GENOTYPES or name is None:
            return None
        none = np.zeros(self.n_samples, np.bool_)
        found = np.empty(stop - start)
        for row, gp in enumerate(self._arrays.read(name, start, stop).astype(np.float64)):
            said = self._said(lambda p: probabilities(p, none), gp, start + row, name)
            found[row] = information(said.mean, said.square, np.where(said.one, 1, 2))
        return found

    def genotype_counts(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return counts over all people for variants ``start`` to ``stop``, counted here."""
        return self.read_block(start, stop).counts()[0]

    def _read_dosages(self, start: int, stop: int) -> Dosages:
        codes = np.empty((stop - start, self.n_samples), dtype=np.uint16)
        whole = [slice(0, self.n_samples)]  # probabilities are told from phred by all of them
        for columns in whole if self._field in PROBABILITIES else self._columns(1):
            values = self._arrays.read_columns(self._field, start, stop, columns)
            if values.dtype.kind != "f":
                values = np.where(values < 0, np.nan, values)
            values = values.astype(np.float64)
            # Some programs leave the dosage out where the call is certain.
            alleles = None
            if GENOTYPES in self._arrays:
                alleles = self._calls(start, stop, columns)
            for row, given in enumerate(values):
                said = self._said(self._copies, given, start + row, None, columns, alleles, row)
                codes[row, columns] = encode_dosages(said.copies, FINEST)
        return Dosages(codes, FINEST)

    def _copies(self, values: NDArray[np.float64], alleles: Any, row: int) -> Copies:
        """Return the copies of one variant."""
        kind = "ds" if self._field in DOSAGES else "hds" if self._field in HAPLOTYPES else "gp"
        return copies_of_variant(
            None if alleles is None else alleles[row], len(values), **{kind: values}
        )

    def _columns(self, multiple: int) -> list[slice]:
        """Return ranges of people to read at once: whole chunks, in whole bytes of packed calls."""
        width = int(self._arrays[self._field].chunks[1])
        step = width if width % multiple == 0 else self.n_samples
        n = self.n_samples
        return [slice(first, min(first + step, n)) for first in range(0, n, step)]

    def _calls(self, start: int, stop: int, columns: slice) -> NDArray[np.integer]:
        calls = self._arrays.read_columns(GENOTYPES, start, stop, columns)
        return calls if calls.ndim == 3 else calls[:, :, None]

    def _said(
        self,
        decode: Callable[..., Any],
        values: NDArray[Any],
        start: int,
        name: str | None = None,
        columns: slice = slice(None),
        *more: Any,
    ) -> Any:
        """Decode values, and say of which variants they are where they make no sense."""
        try:
            return decode(values, *more)
        except WrongValueError as error:
            who = self.samples.individual_id[columns][error.person]
            raise DamagedError(
                f"{self.path}: {name or self._field} at variant {start + error.variant + 1}, "
                f"person {who}: {error.why}"
            ) from error
        except ValueError as error:
            raise DamagedError(
                f"{self.path}: {name or self._field} at variant {start + 1} or after it: {error}"
            ) from error

    def _refuse_more_alleles(self) -> None:
        if self._arrays["variant_allele"].shape[1] <= 2:
            return
        seen = MoreThanTwoAlleles()
        for start in range(0, self.n_variants, _CHECKED_AT_ONCE):
            stop = min(start + _CHECKED_AT_ONCE, self.n_variants)
            alleles = self._arrays.text("variant_allele", start, stop)
            for row in np.flatnonzero((alleles[:, 2:] != "").any(axis=1)).tolist():
                named = [str(a) for a in alleles[row] if a]
                seen.add(f"variant {start + row + 1}", named)
        seen.refuse(self.path, self.n_variants)

    def _fingerprint(self) -> str:
        """Return a checksum of the files of metadata, people and variants."""
        hashed = hashlib.sha256()
        names = [n for n in (*DESCRIBING, _CONTIGS, "variant_id") if n in self._arrays]
        if _CONTIGS not in self._arrays:
            hashed.update("\n".join(self._contig_names).encode())
        for name in sorted({*names, self._field}):
            array = self._arrays[name]
            hashed.update(f"{name} {array.shape} {array.dtype} {array.fill_value}\n".encode())
            if name == self._field:
                continue
            for file in _files(self.path / name):
                hashed.update(f"{file}\n".encode())
                hashed.update((self.path / name / file).read_bytes())
        return f"sha256:{hashed.hexdigest()}"


def _files(folder: Place) -> list[str]:
    if isinstance(folder, ObjectPath):
        return sorted(folder.objects())
    return sorted(f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file())
