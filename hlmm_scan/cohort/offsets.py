"""Predictions of phenotypes from the other chromosomes: ours, regenie's step 1, a plain table.

A polygenic prediction takes the place of random effects at biobank size. That of a test variant's
chromosome leaves the chromosome out, so each chromosome has a phenotype of its own.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hlmm_scan.array_types import Float
from hlmm_scan.cohort.align import match
from hlmm_scan.cohort.backgrounds import LOG_VARIANCE, StoredBackground, is_background
from hlmm_scan.cohort.cohort import Cohort
from hlmm_scan.cohort.derived import with_covariate, with_phenotype
from hlmm_scan.cohort.loco_files import read_loco
from hlmm_scan.cohort.table import Table
from hlmm_scan.cohort.tables import read_table
from hlmm_scan.errors import InputError, nearest
from hlmm_scan.genotypes.chromosomes import X, chromosome, is_autosome
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.shown import one_line
from hlmm_scan.textfiles import as_text, read_bytes

logger = logging.getLogger(__name__)

Use = Literal["subtract", "covariate"]
Units = Literal["residual-sd", "phenotype"]

USES: tuple[Use, ...] = ("subtract", "covariate")
UNITS: tuple[Units, ...] = ("residual-sd", "phenotype")

COVARIATE = "prediction"
"""Name of the mean covariate that a prediction becomes."""

EVERYWHERE = ""
"""Row of a prediction that serves every chromosome."""

_HEADERS = {"fid", "iid", "#fid", "#iid"}


@dataclass(frozen=True, eq=False)
class Offsets:
    """Predictions of one phenotype.

    Attributes
    ----------
    phenotype : str
    path : Path
        The file, for messages.
    rows : mapping of str to ndarray of float64, shape (n_samples,)
        Predictions for the variants of a chromosome; NaN where there is none for a person.
        :data:`EVERYWHERE` alone where they are the same for all.
    autosomes : int
        Of the species.
    use : {"subtract", "covariate"}
    units : {"residual-sd", "phenotype"}
    variance_rows : mapping of str to ndarray of float64, shape (n_samples,)
        Predictions of the log-variance, by the same chromosomes; empty where there are none.
    """

    phenotype: str
    path: Path
    rows: Mapping[str, Float]
    autosomes: int
    use: Use
    units: Units
    variance_rows: Mapping[str, Float] = field(default_factory=dict)

    @property
    def available(self) -> NDArray[np.bool_]:
        """Who has predictions for all chromosomes, shape (n_samples,)."""
        every = (*self.rows.values(), *self.variance_rows.values())
        finite = [np.isfinite(values) for values in every]
        return np.asarray(np.logical_and.reduce(finite), np.bool_)

    def row(self, contig: str) -> str:
        """Return which row serves a chromosome.

        Parameters
        ----------
        contig : str
            As the genotypes name it.

        Raises
        ------
        InputError
            If none does.

        Notes
        -----
        The number after the last autosome has the prediction of all autosomes, as regenie writes
        it for X; it serves whatever is no autosome.
        """
        if EVERYWHERE in self.rows:
            return EVERYWHERE
        one = chromosome(contig, self.autosomes)
        if one in self.rows:
            return one
        if X in self.rows and not is_autosome(contig, self.autosomes):
            return X
        raise InputError(
            f"{self.path}: no predictions for chromosome {contig} (there are those for "
            f"{', '.join(self.rows)})"
        )

    def applied(self, cohort: Cohort, row: str) -> Cohort:
        """Take the prediction out of a phenotype, or put it among its mean covariates.

        Parameters
        ----------
        cohort : Cohort
            Of people who have predictions.
        row : str
            Of `rows`.

        Returns
        -------
        Cohort
            With y − s·prediction for phenotype, s = 1 or, in units "residual-sd", the standard
            deviation of y's residuals on the mean covariates (divisor n − c); or with one more
            covariate. A prediction of the log-variance becomes a covariate of the variance: what
            it is worth, its ridge regression having shrunken it, is fitted.

        Raises
        ------
        InputError
            If nothing is left of the phenotype.

        Notes
        -----
        regenie fits phenotypes that were residualised on covariates and divided by their standard
        deviation, and writes predictions of those: its step 2 subtracts them from the same
        (Mbatchou et al. 2021, Methods). Here covariates are fitted afterwards, so that the
        phenotype keeps its units.
        """
        if self.variance_rows:
            predicted = self.variance_rows[row][cohort.samples]
            design = with_covariate(cohort.variance_design, LOG_VARIANCE, predicted)
            if design is not None:  # else it is 0 for all, as where nothing could be predicted
                cohort = replace(cohort, variance_design=design)
        values = self.rows[row][cohort.samples]
        if self.use == "covariate":
            design = with_covariate(cohort.mean_design, COVARIATE, values)
            if design is None:
                logger.warning(
                    "%s: the prediction for chromosome %s is constant or a combination of the "
                    "covariates, and left out",
                    cohort.phenotype,
                    row or "all",
                )
                return cohort
            return replace(cohort, mean_design=design)
        scale = 1.0 if self.units == "phenotype" else residual_deviation(cohort)
        y = cohort.y - scale * values
        if np.std(y) > np.std(cohort.y):
            logger.warning(
                "%s varies more without its prediction for chromosome %s than with it: is the "
                "prediction another phenotype's, or in other units (--offset-units)?",
                cohort.phenotype,
                row or "all",
            )
        return with_phenotype(cohort, y, f"phenotype '{cohort.phenotype}' without its prediction")


def residual_deviation(cohort: Cohort) -> float:
    """Return the standard deviation of y about its mean covariates, divisor n − c."""
    x = cohort.mean_design.matrix
    unit = np.abs(cohort.y).max()
    rest = cohort.y / unit
    gram = x.T @ x
    for _ in range(2):  # the second step takes out the rounding of the first
        rest = rest - x @ np.linalg.lstsq(gram, x.T @ rest, rcond=None)[0]
    return float(unit * np.sqrt(rest @ rest / max(1, len(rest) - x.shape[1])))


@dataclass(frozen=True, eq=False)
class OffsetSource:
    """Files of predictions of some phenotypes, checked, of which one is read at a time.

    Attributes
    ----------
    path : Path
        What the user named.
    files : mapping of str to Path
        By phenotype; empty where a table holds all.
    table : Table or None
    background : StoredBackground or None
        Where ``hlmm-scan polygenic`` made them.
    samples : SampleIds
        People of the genotypes.
    autosomes : int
    use : {"subtract", "covariate"}
    units : {"residual-sd", "phenotype"}
    fingerprint : str
        SHA-256 of all contents, hexadecimal.
    """

    path: Path
    files: Mapping[str, Path]
    table: Table | None
    background: StoredBackground | None
    samples: SampleIds
    autosomes: int
    use: Use
    units: Units
    fingerprint: str

    @property
    def by_chromosome(self) -> bool:
        """Whether chromosomes have predictions of their own."""
        return self.table is None

    @property
    def of_variance(self) -> bool:
        """Whether log-variances are predicted as well."""
        return self.background is not None and self.background.of_variance

    @property
    def scale(self) -> str | None:
        """What units of the phenotype are, where the predictions say so."""
        return None if self.background is None else self.background.attributes["effect_scale"]

    def read(self, phenotype: str) -> Offsets:
        """Return the predictions of one phenotype.

        Raises
        ------
        InputError
            With file, line and column, on what cannot be read; if nobody of the file is among the
            people of the genotypes.
        """
        path = self.path
        variance: dict[str, Float] = {}
        if self.background is not None:
            at = match(self.samples, self.background.samples, other_name=str(path))

            def rows_of(found: Float) -> dict[str, Float]:
                moved = (np.where(at >= 0, values[at], np.nan) for values in found)
                return dict(zip(chromosomes, moved, strict=True))

            chromosomes = self.background.chromosomes
            rows = rows_of(self.background.predictions(phenotype))
            if self.of_variance:
                variance = rows_of(self.background.predictions(phenotype, LOG_VARIANCE))
        elif self.table is None:
            path = self.files[phenotype]
            rows = read_loco(path, self.samples, self.autosomes)
        else:
            at = match(self.samples, self.table)
            values = self.table.values[at, self.table.index(phenotype)]
            rows = {EVERYWHERE: np.where(at >= 0, values, np.nan)}
        return Offsets(phenotype, path, rows, self.autosomes, self.use, self.units, variance)


def load_offsets(
    path: Path,
    phenotypes: Sequence[str],
    samples: SampleIds,
    *,
    autosomes: int,
    use: Use = "subtract",
    units: Units | None = None,
    missing_values: Sequence[str] = ("NA",),
) -> OffsetSource:
    """Look at files of predictions.

    Parameters
    ----------
    path : Path
        A store of ``hlmm-scan polygenic``. Or a list as regenie writes it (``_pred.list``):
        phenotype and .loco file in each line, the file's folder being the list's where it is not
        absolute or no longer there. Or a table with a header ``FID IID …`` or ``IID …`` and a
        column for every phenotype.
    phenotypes : sequence of str
        Those of the scan.
    samples : SampleIds
        People of the genotypes.
    autosomes : int
        Of the species.
    use : {"subtract", "covariate"}, default "subtract"
    units : {"residual-sd", "phenotype"}, optional
        By default "residual-sd" for regenie's files and "phenotype" for the others.
    missing_values : sequence of str, default ("NA",)
        In tables.

    Raises
    ------
    InputError
        If a file is missing or unreadable, or a phenotype has no predictions.
    """
    if is_background(path):
        return _of_background(path, phenotypes, samples, autosomes, use, units)
    content = read_bytes(path)
    text = as_text(content, path)
    first, lines = text.split(maxsplit=1), text.split("\n")
    if first and re.split(r"[,\s]", first[0])[0].lower() in _HEADERS:
        table = read_table(path, missing_values=missing_values)
        for name in phenotypes:
            table.index(name, "phenotype of predictions")
        return OffsetSource(
            path, {}, table, None, samples, autosomes, use, units or "phenotype", table.sha256
        )
    files: dict[str, Path] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split(maxsplit=1)
        if not words:
            continue
        if len(words) != 2:
            raise InputError(
                f"{path}, line {number}: expected a phenotype and its .loco file (regenie's "
                f"_pred.list), or a table with a header 'IID …'; found '{line[:60]}'"
            )
        if words[0] in files:
            raise InputError(f"{path}, line {number}: phenotype '{words[0]}' is there already")
        files[words[0]] = _loco_path(path, words[1].strip())
    if not files:
        raise InputError(f"{path}: no predictions in it")
    digest = hashlib.sha256(content)
    for name in phenotypes:
        if name not in files:
            some = ", ".join(one_line(other, 80) for other in list(files)[:8])
            hint = nearest(name, files) or f"; it has {some}"
            raise InputError(f"{path}: no predictions of phenotype '{name}'{hint}")
        digest.update(_digest(files[name]))
    fingerprint = digest.hexdigest()
    return OffsetSource(
        path, files, None, None, samples, autosomes, use, units or "residual-sd", fingerprint
    )


def _of_background(
    path: Path,
    phenotypes: Sequence[str],
    samples: SampleIds,
    autosomes: int,
    use: Use,
    units: Units | None,
) -> OffsetSource:
    """Look at a store of ours."""
    background = StoredBackground(path)
    for name in phenotypes:
        background.index(name)
    if units == "residual-sd":
        raise InputError(f"{path}: its predictions are in units of the phenotype (--offset-units)")
    made = int(background.attributes["autosomes"])
    if made != autosomes:
        raise InputError(
            f"{path}: made for a species of {made} autosomes, but here are {autosomes} "
            "(--autosomes)"
        )
    return OffsetSource(
        path, {}, None, background, samples, autosomes, use, "phenotype", background.fingerprint
    )


def _loco_path(path: Path, name: str) -> Path:
    """Return where a file that a list names is: files are moved together with their list."""
    try:
        if "\0" in name:
            raise ValueError("it holds NUL")
        named = Path(name).expanduser()
        beside = path.parent / named
        if beside.exists():  # also where the name is absolute
            return beside
        moved = path.parent / named.name
        return moved if moved.exists() else beside
    except (OSError, RuntimeError, ValueError) as error:  # too long; no such home; NUL in it
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: '{one_line(name, 80)}' is no name of a file ({why})") from None


def _digest(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
