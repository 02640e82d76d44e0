"""Independent hits: lead variants of each test, and what could fake their variance effects."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_scan.analysis.calibration import calibration, not_shown
from hlmm_scan.analysis.clumping import clump
from hlmm_scan.analysis.confounders import (
    CHECKS,
    check_variance_effect,
    no_checks,
    strongest_neighbour,
)
from hlmm_scan.analysis.linkage import ChosenGenotypes
from hlmm_scan.analysis.refits import Refits
from hlmm_scan.analysis.rows import (
    Positions,
    chosen_tests,
    numbers_of_phenotypes,
    read_rows,
    read_some,
    trusted,
)
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.joined import Genotypes
from hlmm_scan.genotypes.ploidy import Ploidy
from hlmm_scan.genotypes.variant_names import VariantName
from hlmm_scan.null.serving import DEFAULT
from hlmm_scan.null.store import read_serving
from hlmm_scan.results.inputs import stored_null_model
from hlmm_scan.results.store import ResultStore
from hlmm_scan.results.tests import ReportedTest
from hlmm_scan.schema import COORDINATES, Status

logger = logging.getLogger(__name__)

THRESHOLD = 5e-8
DISTANCE = 250_000
R2 = 0.1

MOST_CHECKED = 100
"""Leads of a phenotype that are checked, the strongest first: a check is four fits."""

CALIBRATION_FLAGS = "calibration_flags"

_WHOLE = ("n_0", "n_1", "n_2", "neighbour_position")
_VARIANT = tuple(v.name for v in COORDINATES if v.name != "phenotype")


def hits(
    store: ResultStore,
    phenotypes: Sequence[str] = (),
    *,
    genotypes: Genotypes | None = None,
    tests: Sequence[str] = (),
    threshold: float = THRESHOLD,
    distance: int = DISTANCE,
    r2: float = R2,
    checks: bool = True,
    most_checked: int = MOST_CHECKED,
) -> pd.DataFrame:
    """Return the lead variants of every phenotype and test.

    Parameters
    ----------
    store : ResultStore
        Complete or not: what is there is taken.
    phenotypes : sequence of str, default all
    genotypes : GenotypeDataset or JoinedGenotypes, optional
        Those that were scanned, as :func:`hlmm_scan.results.inputs.scanned_genotypes` opens them.
        Without them hits are told apart by distance alone, and nothing is checked.
    tests : sequence of str, optional
        Which tests find hits, as :func:`hlmm_scan.results.tests.parse_tests` takes them. Default:
        the score tests, and that of dispersion effects where there are some.
    threshold : float, default 5e-8
        Largest p of a hit.
    distance : int, default 250,000
        Base pairs to either side of a lead within which weaker variants belong to it.
    r2 : float, default 0.1
        With genotypes they must also have this squared correlation with the lead, in the people of
        the phenotype; others stay hits of their own.
    checks : bool, default True
        Whether variance effects are checked where there are genotypes: four fits for each lead
        of another test than the additive.
    most_checked : int, default 100
        Variants of a phenotype that are checked at most, those of the smallest p.

    Returns
    -------
    pandas.DataFrame
        One row for each phenotype, test that found it (``test``) and lead variant, in that order
        and along the genome: place and alleles, ``row`` (index along the dimension ``variant``),
        ``clumped`` (other significant variants that belong to it), every variable of the store
        under its own name, −log10 p of the tests asked for, and the columns of
        :data:`hlmm_scan.analysis.confounders.CHECKS`, which
        :func:`~hlmm_scan.analysis.confounders.check_variance_effect` explains; NaN or empty where
        nothing was checked. ``calibration_flags`` names what this trait's own tests do not show of
        the test that found the hit, see :func:`~hlmm_scan.analysis.calibration.not_shown`.

    Raises
    ------
    InputError
        If a phenotype is unknown, the store has no such test, or a number is out of range.

    Notes
    -----
    Two passes over the rows, the second of traits with hits alone. What is kept is 6 bytes a row,
    and 40 for each row below the threshold. Rows with a status of 5 or more are never hits.
    Variants in linkage beyond `distance` are
    hits of their own.
    """
    _check(threshold, distance, r2)
    if most_checked < 0:
        raise InputError(f"most_checked must be 0 or more, not {most_checked}")
    chosen = numbers_of_phenotypes(store, phenotypes)
    positions = Positions.of(store)
    asked = tuple(chosen_tests(store, tests))
    search = _Search(store, positions, genotypes, asked, threshold, distance, r2)
    most = most_checked if checks else 0
    with store.being_read():
        found = [search.of_phenotype(number, most) for number in chosen]
    return pd.concat(found, ignore_index=True)


def _check(threshold: float, distance: int, r2: float) -> None:
    if not 0 < threshold < 1:
        raise InputError(f"threshold must be a p-value between 0 and 1, not {threshold:g}")
    if distance < 0:
        raise InputError(f"distance must be 0 base pairs or more, not {distance:,}")
    if not 0 <= r2 <= 1:
        raise InputError(f"r2 must be between 0 and 1, not {r2:g}")


class _Checks:
    """What variants are checked with: the null model that serves them, and its people's genotypes.

    Parameters
    ----------
    store : ResultStore
    phenotype : str
    genotypes : GenotypeDataset or JoinedGenotypes
    chosen : ChosenGenotypes
        Of the default null model's people.
    """

    def __init__(
        self, store: ResultStore, phenotype: str, genotypes: Genotypes, chosen: ChosenGenotypes
    ) -> None:
        self.store, self.phenotype, self.genotypes = store, phenotype, genotypes
        self._serving = read_serving(store.null_group(phenotype), genotypes.n_samples)
        self._chosen = {(DEFAULT, Ploidy.DIPLOID): chosen}
        self._refits: dict[str, Refits] = {}

    def of(self, contig: str, position: int) -> tuple[Refits, ChosenGenotypes]:
        """Return both for a variant at some place."""
        place = np.array([contig], object), np.array([position])
        ((_, key, ploidy),) = self._serving.groups(*place)
        if key not in self._refits:
            self._refits[key] = Refits(stored_null_model(self.store, self.phenotype, key))
        refits, sex = self._refits[key], self._serving.sex
        if (key, ploidy) not in self._chosen:
            self._chosen[key, ploidy] = ChosenGenotypes(
                self.genotypes, refits.null.samples, sex, ploidy
            )
        return refits, self._chosen[key, ploidy]


@dataclass(frozen=True, eq=False)
class _Search:
    """What is asked for, the same for every phenotype."""

    store: ResultStore
    positions: Positions
    genotypes: Genotypes | None
    tests: tuple[ReportedTest, ...]
    threshold: float
    distance: int
    r2: float

    def of_phenotype(self, number: int, most: int) -> pd.DataFrame:
        """Return the hits of one phenotype."""
        rows, strengths = self._significant(number)
        name = self.store.phenotypes[number]
        genotypes = None
        if self.genotypes is not None and len(rows):
            samples = self.store.null_array(name, "samples")
            genotypes = ChosenGenotypes(self.genotypes, np.asarray(samples[:], np.int64))
        order: list[tuple[str, int, int]] = []
        for test in self.tests:
            mine = np.flatnonzero(~np.isnan(strengths[test.name]))
            leads = self._clump(rows[mine], strengths[test.name][mine], genotypes)
            order.extend((test.name, row, taken) for row, taken in leads)
            logger.info(
                "%s: %d hits of %s, %d variants below p = %g",
                *(name, len(leads), test.name, len(mine), self.threshold),
            )
        table = self.table(order, number)
        if genotypes is not None and most:
            strength = [float(strengths[t][np.searchsorted(rows, row)]) for t, row, _ in order]
            self._add_checks(table, number, genotypes, strength, most)
        table[CALIBRATION_FLAGS] = self._not_shown(table)
        return table.astype(dict.fromkeys(_WHOLE, "Int64"))

    def _not_shown(self, table: pd.DataFrame) -> NDArray[np.object_]:
        """Return what the calibration of this phenotype does not show of each hit."""
        flags = np.full(len(table), "", object)
        if len(table):
            names = list(dict.fromkeys(table["test"]))
            (calibrated,) = calibration(self.store, [table["phenotype"][0]], tests=names)
            tests = {test.name: test for test in self.tests}
            for k, row in enumerate(table.to_dict("records")):
                hit = {str(name): value for name, value in row.items()}
                flags[k] = ",".join(not_shown(calibrated, tests[hit["test"]], hit))
        return flags

    def _significant(self, number: int) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float64]]]:
        """Rows below the threshold in any test; −log10 p of each test, NaN where not below."""
        limit = -np.log10(self.threshold)
        rows: list[NDArray[np.int64]] = []
        strengths: dict[str, list[NDArray[np.float64]]] = {t.name: [] for t in self.tests}
        needs = [name for test in self.tests for name in test.needs]
        for start, values in read_rows(self.store, number, ["status", *needs]):
            believed = trusted(values["status"])
            p = {test.name: test.neg_log10_p(values) for test in self.tests}
            below = {name: believed & (column > limit) for name, column in p.items()}
            some = np.flatnonzero(np.logical_or.reduce(list(below.values())))
            rows.append(start + some)
            for name, column in p.items():
                strengths[name].append(np.where(below[name], column, np.nan)[some])
        if not rows:
            return np.empty(0, np.int64), {test.name: np.empty(0) for test in self.tests}
        return np.concatenate(rows), {t: np.concatenate(s) for t, s in strengths.items()}

    def _clump(
        self,
        rows: NDArray[np.int64],
        strength: NDArray[np.float64],
        genotypes: ChosenGenotypes | None,
    ) -> list[tuple[int, int]]:
        """Return the rows of the leads along the genome, and how many others each took."""

        def linked(lead: int, others: NDArray[np.int64]) -> NDArray[np.bool_]:
            assert genotypes is not None
            return np.asarray(genotypes.r2(int(rows[lead]), rows[others]) >= self.r2)

        leads, taken = clump(
            self.positions.contig[rows],
            self.positions.position[rows],
            strength,
            self.distance,
            None if genotypes is None else linked,
        )
        there = rows[leads]
        order = np.lexsort((there, self.positions.position[there], self.positions.contig[there]))
        return [(int(there[k]), int(taken[k])) for k in order]

    def table(self, order: list[tuple[str, int, int]], number: int = 0) -> pd.DataFrame:
        """Return the table of (test, row, others taken), without checks."""
        rows = np.array([row for _, row, _ in order], np.int64)
        names = [v.name for v in self.store.readable]
        columns = read_some(self.store, number, [*_VARIANT, *names], rows)
        columns["status"] = np.array([Status(int(s)).label for s in columns["status"]], object)
        table = pd.DataFrame(
            {
                "phenotype": np.full(len(rows), self.store.phenotypes[number], object),
                "test": np.array([test for test, _, _ in order], object),
                **{name: columns[name] for name in _VARIANT},
                "row": rows,
                "clumped": np.array([n for _, _, n in order], np.int64),
                **{name: columns[name] for name in names},
                **{t.column: t.neg_log10_p(columns) for t in self.tests if not t.stored},
            }
        )
        for name, value in no_checks().items():
            table[name] = np.full(len(rows), value, object if value == "" else np.float64)
        return table

    def _add_checks(
        self,
        table: pd.DataFrame,
        number: int,
        genotypes: ChosenGenotypes,
        strength: list[float],
        most: int,
    ) -> None:
        """Fill in the checks of the strongest leads but the additive ones, each variant once."""
        rows = table["row"].tolist()
        of_mean = {test.name for test in self.tests if test.question == "add"}
        wanted = [k for k, test in enumerate(table["test"]) if test not in of_mean]
        if not wanted:
            return
        strongest = dict.fromkeys(rows[k] for k in sorted(wanted, key=lambda k: -strength[k]))
        if len(strongest) > most:
            logger.warning(
                "%s: of %d variants with variance or joint hits the %d strongest are checked for "
                "other causes",
                *(table["phenotype"][0], len(strongest), most),
            )
        chosen = set(list(strongest)[:most])
        wanted = [k for k in wanted if rows[k] in chosen]
        assert self.genotypes is not None
        checks = _Checks(self.store, self.store.phenotypes[number], self.genotypes, genotypes)
        known: dict[int, dict[str, Any]] = {}
        for k in wanted:
            row = rows[k]
            if row not in known:
                named = VariantName.of_row(table.loc[k])
                logger.info("%s: checking %s", table["phenotype"][k], named)
                info = float(table["info"][k]) if "info" in table else np.nan
                known[row] = self._checked(number, row, checks, info)
        for name in CHECKS:
            column = table[name].to_numpy(copy=True)
            for k in wanted:
                column[k] = known[rows[k]][name]
            table[name] = column

    def _checked(self, number: int, row: int, checks: _Checks, info: float) -> dict[str, Any]:
        contig, position = self.positions.contig, self.positions.position
        name = self.positions.contigs[contig[row]]
        refits, genotypes = checks.of(name, int(position[row]))
        near = np.abs(position.astype(np.int64) - position[row]) <= self.distance
        around = np.flatnonzero(near & (contig == contig[row]))
        additive = next(test for test in chosen_tests(self.store) if test.question == "add")
        values = read_some(self.store, number, ["status", *additive.needs], around)
        believed = trusted(values["status"])
        around, strength = around[believed], additive.neg_log10_p(values)[believed]
        neighbour = strongest_neighbour(genotypes, row, around, strength)
        other = None if neighbour is None else genotypes.copies(neighbour[0])
        found = no_checks()
        found.update(check_variance_effect(refits, name, genotypes.copies(row), other, info))
        if neighbour is not None:
            there, linkage = neighbour
            ids = read_some(self.store, number, ["variant_id"], np.array([there]))["variant_id"]
            found["neighbour"] = str(ids[0])
            found["neighbour_position"] = float(position[there])
            found["neighbour_r2"] = linkage
            found["neighbour_add_neg_log10_p"] = float(strength[around == there][0])
        return found
