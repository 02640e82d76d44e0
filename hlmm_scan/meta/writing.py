"""The pool as a result store: pooled window by window, written chunk by chunk."""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hlmm_scan import __version__
from hlmm_scan.errors import InputError
from hlmm_scan.kernels.choice import ModelSize
from hlmm_scan.meta.merging import Matching, Window
from hlmm_scan.meta.pool import pool
from hlmm_scan.meta.rows import Chromosomes, Source, positions
from hlmm_scan.results.null_summary import TraitShape, write_pooled_summary
from hlmm_scan.results.publish import PUBLISHED
from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.plan import Plan
from hlmm_scan.scan.provenance import software
from hlmm_scan.schema import COORDINATES, TRAIT_UNIT, Status, pooled_variables
from hlmm_scan.storage import Place

logger = logging.getLogger(__name__)

CHUNK = 65_536
"""Variants of a chunk of the result."""

_MOST_VARIANTS = 2**31 - 1
"""How many there are is known at the end."""

_WIDER = 1.5
"""Times that residuals may be wider than those of the cohort in the middle without a warning."""

_COORDINATES = [v.name for v in COORDINATES if v.name != "phenotype"]
_COUNTS = ("n_cohorts", "n", "test_flags")
_SIGNS = np.array([b"-", b"?", b"+"])


@dataclass(frozen=True)
class Pooling:
    """How cohorts are pooled.

    Attributes
    ----------
    phenotype : str, default ""
        Which one, where cohorts have several.
    matching : Matching
    same_unit : bool, default False
        Whether effects on the mean are in one unit whatever the stores say.
    leave_one_out : bool, default False
        Whether to pool all cohorts but one as well, each time another.
    """

    phenotype: str = ""
    matching: Matching = field(default_factory=Matching)
    same_unit: bool = False
    leave_one_out: bool = False

    def parameters(self) -> dict[str, Any]:
        """Return what the numbers depend on, JSON types only."""
        return {
            "model": "meta",
            "same_unit": self.same_unit,
            "leave_one_out": self.leave_one_out,
            **asdict(self.matching),
        }


class Writer:
    """Makes the result store of a meta-analysis.

    Parameters
    ----------
    path : Path or ObjectPath
        Where the store is made.
    sources : sequence of Source
        The cohorts.
    how : Pooling
    scale : str
        Unit of effects on the mean; empty where no cohort says it.
    chromosomes : Chromosomes
    """

    def __init__(
        self,
        path: Place,
        sources: Sequence[Source],
        how: Pooling,
        scale: str,
        chromosomes: Chromosomes,
    ) -> None:
        self._path, self._sources, self._how = path, sources, how
        self._scale, self._chromosomes = scale, chromosomes
        self._began = time.time()
        everybody = range(len(sources))
        self._pools = [list(everybody)]
        if how.leave_one_out:
            self._pools += [[k for k in everybody if k != left] for left in everybody]
        self._store: ResultStore | None = None
        self._waiting: list[dict[str, NDArray[Any]]] = []
        self._n_waiting = self._n_written = 0
        self._records: list[PartitionRecord] = []
        self._statuses = Counter[str]()
        self._people = np.zeros(len(sources))
        self._spreads = np.zeros((2, len(sources)))

    def add(self, window: Window) -> None:
        """Pool the variants of a window; those of the window before stand before them."""
        self._look(window)
        columns: dict[str, NDArray[Any]] = {
            "variant_id": window.variant_id,
            "contig": self._chromosomes.contigs(window.place),
            "position": positions(window.place),
            "effect_allele": window.effect_allele,
            "other_allele": window.other_allele,
        }
        for row in np.flatnonzero(window.variant_id == ""):
            place = (columns[name][row] for name in _COORDINATES[1:3])
            columns["variant_id"][row] = ":".join(
                map(str, (*place, window.other_allele[row], window.effect_allele[row]))
            )
        refused = window.strand_unknown | window.frequencies_differ
        for number, which in enumerate(self._pools):
            pooled: dict[str, NDArray[Any]] = dict(pool(window.values, which))
            for name, values in pooled.items():
                values[refused] = 0 if name in _COUNTS else np.nan
            status = np.full(len(window), Status.OK, np.int8)
            status[pooled["n_cohorts"] == 0] = Status.NO_COHORT
            status[window.strand_unknown] = Status.STRAND_UNKNOWN
            status[window.frequencies_differ] = Status.FREQUENCIES_DIFFER
            pooled |= {"direction": _directions(window, which), "status": status}
            columns |= {f"{name} {number}": values for name, values in pooled.items()}
        self._waiting.append(columns)
        self._n_waiting += len(window)
        while self._n_waiting > CHUNK:  # what is left may be the end, which is cut to its length
            self._write(CHUNK)

    def finish(self) -> None:
        """Write the last variants, and what there is to be said of all.

        Raises
        ------
        InputError
            If there is no variant.
        """
        if not self._n_waiting:
            raise InputError("no cohort has a variant that can be pooled")
        store = self._opened()
        store.end_at(self._n_written + self._n_waiting)
        self._write(self._n_waiting)
        self._tell()
        shapes = [source.shape for source in self._sources]
        for name, which in zip(self._names, self._pools, strict=True):
            shape = _shape(int(self._people[which].sum()), [shapes[k] for k in which])
            write_pooled_summary(store.null_group(name), name, shape)
        people = tuple(int(self._people[which].sum()) for which in self._pools)
        plan = Plan(
            self._names,
            people,
            self._n_written,
            CHUNK,
            (),
            self._how.parameters(),
            task_bytes=0,
            shared_bytes=0,
            task_seconds=0.0,
            model=ModelSize(max(people), 1, 1, 0),
        )
        store.put_plan(plan.to_json())
        store.put_attributes(self._attributes())
        store.seal()
        with store.ledger.writer() as journal:
            for record in self._records:
                journal.append(record)

    @property
    def _names(self) -> tuple[str, ...]:
        """Phenotypes of the store: the one pooled, and the same without each cohort."""
        of_sources = [source.phenotype for source in self._sources if source.phenotype]
        name = of_sources[0] if of_sources else "pooled"
        without = [s.name for s in self._sources] if self._how.leave_one_out else []
        return (name, *(f"{name} without {cohort}" for cohort in without))

    def _opened(self) -> ResultStore:
        """Return the store, made when something was read: then phenotypes have names."""
        if self._store is None:
            self._store = ResultStore.create(
                self._path,
                phenotypes=self._names,
                n_variants=_MOST_VARIANTS,
                chunk_variants=CHUNK,
                variables=pooled_variables(self._scale or TRAIT_UNIT),
                attributes={"run_id": uuid.uuid4().hex, "run_status": "incomplete"},
                plan={},
            )
        return self._store

    def _write(self, rows: int) -> None:
        """Write a chunk of all that waits."""
        store, start = self._opened(), self._n_written
        began = time.time()
        parts = self._waiting
        whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        self._waiting = [{name: values[rows:] for name, values in whole.items()}]
        self._n_waiting -= rows
        store.write_variants(start, {name: whole[name][:rows] for name in _COORDINATES})
        for number in range(len(self._pools)):
            values = {v.name: whole[f"{v.name} {number}"][:rows] for v in store.variables}
            digest = store.write_partition(number, start, start + rows, values)
            codes, n_each = np.unique(values["status"], return_counts=True)
            labels = [Status(int(code)).label for code in codes]
            statuses = Counter(dict(zip(labels, map(int, n_each), strict=True)))
            self._statuses += statuses
            self._records.append(
                PartitionRecord(
                    len(self._records),
                    checksum=digest,
                    statuses=dict(statuses),
                    started=began,
                    finished=time.time(),
                    chunks=store.chunk_checksums(number, start),
                )
            )
        self._n_written += rows

    def _look(self, window: Window) -> None:
        """Note how many people each cohort has, and how wide its residuals are."""
        v = window.values
        n, f = v["n"], v["effect_allele_frequency"]
        self._people = np.fmax(self._people, np.fmax.reduce(n, axis=1, initial=0.0))
        with np.errstate(invalid="ignore", divide="ignore"):
            spread = 0.5 * np.log(v["add_se"] ** 2 * n * 2.0 * f * (1.0 - f))
        known = np.isfinite(spread)
        self._spreads += np.where(known, spread, 0.0).sum(axis=1), known.sum(axis=1)

    @property
    def _residual_sd(self) -> list[float | None]:
        """Standard deviation of each cohort's residuals, as its errors of `add` imply."""
        total, count = self._spreads
        return [
            float(f"{np.exp(t / c):.3g}") if c else None for t, c in zip(total, count, strict=True)
        ]

    def _tell(self) -> None:
        """Say what was left out of each cohort, and which may be in another unit."""
        for source in self._sources:
            left_out = [f"{n:,} {reason}" for reason, n in source.counts.items() if n]
            logger.info("%s (%s): %s", source.name, source.where, ", ".join(left_out))
        spreads = self._residual_sd
        known = [s for s in spreads if s is not None]
        middle = float(np.median(known)) if known else 1.0
        for source, spread in zip(self._sources, spreads, strict=True):
            if spread is not None and not middle / _WIDER <= spread <= middle * _WIDER:
                logger.warning(
                    "%s: residuals have a standard deviation of %.3g, those of the cohorts in the "
                    "middle %.3g: is its trait in another unit? Effects on the mean are pooled as "
                    "they are, tests do not depend on it",
                    source.where,
                    spread,
                    middle,
                )
        refused = {
            Status.STRAND_UNKNOWN: "A/T or C/G whose strand is not known",
            Status.FREQUENCIES_DIFFER: "with frequencies that differ too much",
        }
        for status, words in refused.items():
            n = self._statuses[status.label] // len(self._pools)
            if n:
                logger.warning("%s variants are not pooled: %s", f"{n:,}", words)

    def _attributes(self) -> dict[str, Any]:
        cohorts = [
            {
                "name": source.name,
                "people": int(people),
                "phenotype": source.phenotype,
                "scale": source.scale,
                "residual_sd": spread,
                **source.about,
                "rows": {reason: n for reason, n in source.counts.items() if n},
            }
            for source, people, spread in zip(
                self._sources, self._people, self._residual_sd, strict=True
            )
        ]
        now = time.time()
        return {
            "run_status": "complete",
            "started": _utc(self._began),
            "finished": _utc(now),
            "status_counts": dict(self._statuses),
            "parameters": self._how.parameters(),
            "inputs": {"cohorts": [source.where for source in self._sources]},
            "cohorts": cohorts,
            "autosomes": self._chromosomes.autosomes,
            "software": software(),
            "effects_per": "copy of effect_allele",
            "effect_scale": self._scale,
            PUBLISHED: {"hlmm_scan": __version__},  # there is nobody in it
        }


def _directions(window: Window, which: Sequence[int]) -> NDArray[np.object_]:
    """Return the signs of both effects, cohort by cohort."""
    marks = []
    for name in ("add", "var"):
        sign = np.sign(np.nan_to_num(window.values[name][list(which)], nan=0.0)).astype(np.intp)
        marks += [*_SIGNS[sign + 1], np.full(len(window), b"/")]
    text = np.ascontiguousarray(np.array(marks[:-1]).T)
    return np.asarray(text.view(f"S{text.shape[1]}").ravel().astype(str), object)


def _shape(people: int, shapes: Sequence[TraitShape | None]) -> TraitShape:
    """Return the shape of the pooled trait: moments by people, of the cohorts that say theirs."""
    known = [one for one in shapes if one is not None]
    total = sum(one.people for one in known)
    if not total:
        return TraitShape(people, float("nan"), float("nan"), False)
    skewness, excess = (
        sum(one.people * value for one, value in zip(known, values, strict=True)) / total
        for values in ([s.skewness for s in known], [s.excess_kurtosis for s in known])
    )
    few_values = any(one.few_values for one in known)
    return TraitShape(people, skewness, excess, few_values, max(one.outlier for one in known))


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
