"""Chosen variants held against permuted residuals, and their standard errors bootstrapped."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hlmm_scan.analysis.bootstrap import NOISE, bootstrap
from hlmm_scan.analysis.permuted import CheckedGenotypes, ScoreStatistic, count, exceedances_wanted
from hlmm_scan.analysis.refits import Refits
from hlmm_scan.array_types import Float
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import GenotypeBlock
from hlmm_scan.genotypes.joined import Genotypes
from hlmm_scan.genotypes.ploidy import Ploidy, recode
from hlmm_scan.genotypes.variant_names import VariantName, read_variant_names
from hlmm_scan.kernels.filters import GenotypeCounts
from hlmm_scan.kernels.prepared import score_design
from hlmm_scan.kernels.scores.design import genotype_shapes
from hlmm_scan.kernels.scores.p_values import GenotypeShapes
from hlmm_scan.null.model import NullModel
from hlmm_scan.null.serving import Served
from hlmm_scan.null.store import read_serving
from hlmm_scan.results.inputs import stored_null_model
from hlmm_scan.results.phenotypes import chosen_phenotypes
from hlmm_scan.results.store import ResultStore
from hlmm_scan.schema import Status

logger = logging.getLogger(__name__)


PERMUTATIONS = 10_000
HALF_WIDTH = 0.3
_TESTS = ("add", "var", "av")
_WORKING_BYTES = 256 << 20
_ALIKE = 0.05
"""Difference of −log10 p, and share of it, up to which a test is the one that is stored."""
_STORED = (
    "n", "effect_allele_frequency", "add", "add_se", "add_se_robust", "var", "var_se",
    "var_se_robust", *(f"{t}_neg_log10_p" for t in _TESTS),
)  # fmt: skip


def check(
    store: ResultStore,
    variants: Sequence[str | VariantName] | Mapping[str, Sequence[VariantName]],
    genotypes: Genotypes,
    phenotypes: Sequence[str] = (),
    *,
    permutations: int = PERMUTATIONS,
    half_width: float = HALF_WIDTH,
    bootstraps: int = 0,
    noise: str = "residual",
    seed: int = 1,
) -> pd.DataFrame:
    """Give empirical p-values, and bootstrapped standard errors, for chosen variants.

    Parameters
    ----------
    store : ResultStore
    variants : sequence of str or VariantName, or mapping of str to sequence of VariantName
        As :meth:`~hlmm_scan.genotypes.dataset.GenotypeDataset.find_variants` takes them; or those
        of each phenotype.
    genotypes : GenotypeDataset or JoinedGenotypes
        Those that were scanned.
    phenotypes : sequence of str, default all
    permutations : int, default 10,000
        At most; p-values are no smaller than about one over this.
    half_width : float, default 0.3
        A test of a variant goes on until half the 95% interval of its permutation p is this share
        of p, which so many permuted tests make it that reached the observed one: 43 by default.
    bootstraps : int, default 0
        Data sets drawn for the standard errors of each variant.
    noise : {"residual", "normal"}, default "residual"
        Of those data sets: residuals drawn with replacement, or normal ones (parametric).
    seed : int, default 1
        The same seed gives the same numbers, whatever else is checked.

    Returns
    -------
    pandas.DataFrame
        One row for each phenotype and variant, in the order given: place, the scan's estimates and
        tests, and for each test ``*_p_permutation`` with its 95% interval
        (``*_p_permutation_low``, ``_high``), ``*_neg_log10_p_permutation``, ``*_permutations``,
        ``*_exceedances`` and ``*_level_at_0.001``, how often the reported p of permuted residuals
        is below 0.001; ``add_se_bootstrap``, ``var_se_bootstrap`` and ``bootstraps`` (those that
        had a maximum) where asked for. NaN where a variant cannot be tested.

    Raises
    ------
    InputError
        If a phenotype or variant is unknown, or a number out of range.

    Notes
    -----
    Residuals of the null model over their standard deviations, whitened first where there are
    random effects, are dealt to people anew; covariates and genotypes stay (Freedman & Lane 1983).
    Of every permutation the reported p is worked out as the scan does, and is compared with that
    of the residuals as they are (:class:`~hlmm_scan.analysis.permuted.ScoreStatistic`).
    """
    _check_numbers(permutations, half_width, bootstraps, noise, seed)
    tables = []
    with store.being_read():
        for name, names in _by_phenotype(store, variants, phenotypes).items():
            found = genotypes.find_variants(names).tolist()
            rows = np.array(list(dict.fromkeys(found)), dtype=np.int64)
            table = _stored(store, genotypes, store.phenotypes.index(name), rows)
            serving = read_serving(store.null_group(name), genotypes.n_samples)
            places = table["contig"].to_numpy(object), table["position"].to_numpy()
            for served in serving.groups(*places):
                null = stored_null_model(store, name, served.key)
                for part in _parts(null, genotypes, rows, served, serving.sex):
                    _permute(table, null, part, permutations, half_width, seed)
                    if bootstraps:
                        _bootstrap(table, null, part, bootstraps, noise, seed)
            counted = [
                f"{test}_{what}" for test in _TESTS for what in ("permutations", "exceedances")
            ]
            counted += ["bootstraps"] if bootstraps else []
            tables.append(table.astype(dict.fromkeys(counted, np.int64)))
    return pd.concat(tables, ignore_index=True)


def read_variants(path: Path) -> list[VariantName] | dict[str, list[VariantName]]:
    """Read which variants to check.

    Parameters
    ----------
    path : Path
        See :func:`~hlmm_scan.genotypes.variant_names.read_variant_names`: a list, or a table that
        ``hits`` wrote.

    Returns
    -------
    list of VariantName, or dict of str to list of VariantName
        Names; of a table with a column ``phenotype``, those of each phenotype.

    Raises
    ------
    InputError
        If it cannot be read, is empty, or has lines that are no names.
    """
    names = read_variant_names(path)
    if not names:
        raise InputError(f"{path}: no variant ids in it")
    found: dict[str, list[VariantName]] = {}
    for name in names:
        if name.phenotype is not None:
            found.setdefault(name.phenotype, []).append(name)
    return found or list(dict.fromkeys(names))


def _by_phenotype(
    store: ResultStore,
    variants: Sequence[str | VariantName] | Mapping[str, Sequence[VariantName]],
    phenotypes: Sequence[str],
) -> dict[str, Sequence[str | VariantName]]:
    """Return which variants are to be checked for which phenotype."""
    asked = chosen_phenotypes(store, phenotypes)
    if isinstance(variants, Mapping):
        chosen_phenotypes(store, list(variants))
    wanted = {
        name: variants.get(name, ()) if isinstance(variants, Mapping) else variants
        for name in asked
    }
    found = {name: names for name, names in wanted.items() if names}
    if not found:
        raise InputError(f"no variant to check is one of {', '.join(asked)}")
    return found


def _check_numbers(
    permutations: int, half_width: float, bootstraps: int, noise: str, seed: int
) -> None:
    if permutations < 1:
        raise InputError(f"permutations must be 1 or more, not {permutations}")
    if not 0 < half_width < 1:
        raise InputError(f"half-width must be between 0 and 1, not {half_width}")
    if bootstraps < 0 or bootstraps == 1:
        raise InputError(f"bootstraps must be 0, or 2 or more, not {bootstraps}")
    if noise not in NOISE:
        raise InputError(f"noise must be one of {', '.join(NOISE)}, not '{noise}'")
    if seed < 0:
        raise InputError(f"seed must not be negative, as {seed} is")


@dataclass(frozen=True, eq=False)
class _Part:
    """Variants that go together: of one random-effect set and kind, and not too many.

    Attributes
    ----------
    lines : list of int
        Their lines in the table of the phenotype.
    contigs : list of str
    key : str
        Random effects left out.
    genotypes : CheckedGenotypes
    """

    lines: list[int]
    contigs: list[str]
    key: str
    genotypes: CheckedGenotypes


def _parts(
    null: NullModel,
    genotypes: Genotypes,
    rows: NDArray[np.int64],
    served: Served,
    sex: NDArray[np.int8] | None,
) -> Iterator[_Part]:
    """Read the variants that a null model serves in groups that fit into memory."""
    most = max(1, _WORKING_BYTES // (40 * null.n))
    lines_here = [(line, int(rows[line])) for line in served.rows.tolist()]
    table = [(line, str(genotypes.variants(r, r + 1).contig[0])) for line, r in lines_here]
    by_key: dict[str, list[tuple[int, str]]] = {}
    for line, contig in table:
        by_key.setdefault(null.random_effect_set(contig), []).append((line, contig))
    for key, all_lines in by_key.items():
        for start in range(0, len(all_lines), most):
            chosen = all_lines[start : start + most]
            lines = [line for line, _ in chosen]
            blocks = [genotypes.read_block(int(rows[k]), int(rows[k]) + 1) for k in lines]
            if sex is not None and served.ploidy is not Ploidy.DIPLOID:
                blocks = [recode(b, served.ploidy, sex, null.samples)[0] for b in blocks]
            yield _Part(
                lines,
                [contig for _, contig in chosen],
                key,
                CheckedGenotypes(
                    np.concatenate([b.copies(null.samples) for b in blocks]),
                    [_shape(b, null.samples, score_design(null, key).classes) for b in blocks],
                ),
            )


def _shape(genotypes: GenotypeBlock, samples: NDArray[np.int64], classes: int) -> GenotypeShapes:
    """Return what tests take of one variant, as the scan has it."""
    if genotypes.whole()[0]:
        genotypes = genotypes.best_guess()
    counts = GenotypeCounts.of(genotypes, samples)
    return genotype_shapes(genotypes, np.array([0]), counts, samples, classes).at_hand()


def _stored(
    store: ResultStore, genotypes: Genotypes, phenotype: int, rows: NDArray[np.int64]
) -> pd.DataFrame:
    """Return what the scan found of the variants."""
    tables = [genotypes.variants(int(r), int(r) + 1) for r in rows]
    columns: dict[str, Any] = {"phenotype": store.phenotypes[phenotype]}
    for name in ("variant_id", "contig", "position", "effect_allele", "other_allele"):
        columns[name] = [getattr(table, name)[0] for table in tables]
    for name in (*_STORED, "status"):
        array = store.array(name)
        columns[name] = [np.asarray(array[phenotype, int(r)]).item() for r in rows]
    columns["status"] = [Status(s).label for s in columns["status"]]
    return pd.DataFrame(columns)


def _permute(
    table: pd.DataFrame, null: NullModel, part: _Part, most: int, half_width: float, seed: int
) -> None:
    """Fill in the columns of the permutations."""
    statistic = ScoreStatistic(null, part.key, part.genotypes)
    _compare(table, part, statistic.observed())
    enough = exceedances_wanted(half_width)
    counts = count(
        statistic,
        most=most,
        enough=enough,
        seed=(seed, _digest(null.phenotype)),
        at_once=int(np.clip(_WORKING_BYTES // (64 * null.n), 4, 200)),
    )
    p, (low, high) = counts.p(enough), counts.interval(enough)
    with np.errstate(invalid="ignore"):
        level = np.where(counts.testable, counts.beyond_1e3 / counts.permutations, np.nan)
    for k, test in enumerate(_TESTS):
        table.loc[part.lines, f"{test}_p_permutation"] = p[:, k]
        table.loc[part.lines, f"{test}_p_permutation_low"] = low[:, k]
        table.loc[part.lines, f"{test}_p_permutation_high"] = high[:, k]
        table.loc[part.lines, f"{test}_neg_log10_p_permutation"] = -np.log10(p[:, k])
        table.loc[part.lines, f"{test}_permutations"] = counts.permutations[:, k]
        table.loc[part.lines, f"{test}_exceedances"] = counts.exceedances[:, k]
        table.loc[part.lines, f"{test}_level_at_0.001"] = level[:, k]
    logger.info(
        "%s: %d variants, up to %s permutations",
        *(null.phenotype, len(part.lines), f"{counts.permutations.max(initial=0):,}"),
    )


def _compare(table: pd.DataFrame, part: _Part, observed: Float) -> None:
    """Warn of variants whose tests are not those that the scan stored."""
    stored = table.loc[part.lines, [f"{test}_neg_log10_p" for test in _TESTS]].to_numpy(float)
    with np.errstate(invalid="ignore"):
        other = (np.abs(stored - observed) > _ALIKE * np.maximum(stored, 1)).any(axis=1)
    for line in np.array(part.lines)[other]:
        row = table.loc[line]
        logger.warning(
            "%s: the tests of %s are not those of the scan: the genotypes or the software changed",
            *(row["phenotype"], row["variant_id"]),
        )


def _bootstrap(
    table: pd.DataFrame, null: NullModel, part: _Part, times: int, noise: str, seed: int
) -> None:
    """Fill in the columns of the bootstrap."""
    refits = Refits(null)
    for line, contig, called in zip(part.lines, part.contigs, part.genotypes.copies, strict=True):
        row = table.iloc[[line]].to_dict("records")[0]
        name = str(VariantName.of_row(row))
        fitted = refits.fitted(contig, called)
        found = np.empty((0, 2))
        if fitted is not None and fitted.fit.success:
            rng = np.random.default_rng([seed, _digest(null.phenotype), _digest(name)])
            drawn = bootstrap(fitted, times, noise, rng)
            found = drawn[~np.isnan(drawn).any(axis=1)]
        unit = float(np.nanstd(called))
        se = found.std(axis=0, ddof=1) / unit if len(found) > 1 else np.full(2, np.nan)
        table.loc[line, "add_se_bootstrap"] = se[0] * null.y_scale
        table.loc[line, "var_se_bootstrap"] = se[1]
        table.loc[line, "bootstraps"] = len(found)
        logger.info("%s: %s fitted to %d drawn data sets", null.phenotype, name, len(found))


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())
