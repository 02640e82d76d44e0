"""Arrays in, estimates out: the null model of one phenotype, and variants fitted on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import zarr

from hlmm_scan.api.genotypes import hard_calls
from hlmm_scan.cohort.cohort import CohortBuilder
from hlmm_scan.cohort.table import Table
from hlmm_scan.config import (
    DEFAULT_MAX_MISSING,
    DEFAULT_MIN_MAC,
    DEFAULT_MIN_MAF,
    INFORMATION,
    METHODS,
)
from hlmm_scan.errors import InputError, nearest
from hlmm_scan.genotypes.blocks import FINEST, Dosages, GenotypeBlock, HardCalls
from hlmm_scan.genotypes.calls import encode_dosages
from hlmm_scan.genotypes.conversion.convert import default_chunk_variants
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.kernels.block import fit_block
from hlmm_scan.null.fit import CovariateFit
from hlmm_scan.null.fit import fit_null as fit_cohort
from hlmm_scan.null.model import NullModel, RandomEffects
from hlmm_scan.null.random_effects import RandomEffectSource
from hlmm_scan.null.standalone import COLUMNS
from hlmm_scan.null.store import read_random_effects, write_random_effects
from hlmm_scan.scan.options import options_of
from hlmm_scan.scan.worker import let_go, pin_threads
from hlmm_scan.schema import result_variables

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import ArrayLike, NDArray

_TRAIT = "y"


@dataclass(frozen=True, eq=False)
class Null:
    """A phenotype fitted without a test variant; made by :func:`fit_null`.

    Attributes
    ----------
    model : NullModel
        What :func:`fit_variants` takes: people, designs and fits in standardised units.
    covariates : CovariateFit
        Effects of covariates in the user's units.
    n_given : int
        People of the arrays; those without a missing value are analysed.
    """

    model: NullModel
    covariates: CovariateFit
    n_given: int

    @property
    def effects(self) -> pd.DataFrame:
        """Estimates with standard errors, a row for each parameter."""
        return pd.DataFrame([astuple(e) for e in self.covariates.effects], columns=list(COLUMNS))

    def __repr__(self) -> str:
        kind = "HLM" if self.model.random_effects is None else "HLMM"
        return (
            f"<Null {kind} of {self.model.n:,} people, log-likelihood "
            f"{self.covariates.log_likelihood:.3f}, {self.covariates.status}>\n"
            f"{self.effects.to_string(index=False)}"
        )

    def _repr_html_(self) -> str:
        head = repr(self).split("\n", 1)[0].strip("<>")
        return f"<p>{head}</p>{self.effects.to_html(index=False)}"


def fit_null(
    y: ArrayLike,
    *,
    mean: Any = None,
    variance: Any = None,
    random_effects: ArrayLike | None = None,
) -> Null:
    """Fit the null model of a phenotype: y ~ N(Xα, D + h2·GGᵀ), D = diag(exp(Vβ)).

    Parameters
    ----------
    y : array, shape (n,)
        Phenotype in the user's units, NaN where missing.
    mean, variance : array, shape (n, k), or DataFrame, optional
        Covariates of the mean and of the log-variance, without an intercept, which is always
        there. People with a NaN are left out.
    random_effects : array, shape (variants, n), optional
        Copies or dosages, NaN or −1 where missing. They are mean-imputed and standardised over the
        people analysed, and divided by √variants. Without them, the HLM.

    Returns
    -------
    Null

    Raises
    ------
    InputError
        If shapes do not fit, or there is nothing to fit: too few people, collinear covariates, a
        constant phenotype, a likelihood without a maximum.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> age = rng.uniform(40, 70, 500)
    >>> y = 0.1 * age + np.exp(0.02 * age) * rng.standard_normal(500)
    >>> null = hs.fit_null(y, mean=age, variance=age)
    >>> null.effects["name"].tolist()
    ['intercept', 'x1', 'intercept', 'x1']
    """
    values = np.array(y, np.float64)
    if values.ndim != 1:
        raise InputError(f"y: a phenotype has one dimension, not the shape {values.shape}")
    n = len(values)
    ids = np.array([str(i) for i in range(n)], object)
    samples = SampleIds(ids)
    phenotype = _table(values[:, None], (_TRAIT,), ids, _TRAIT)
    covariates = [
        None if given is None else _table(*_columns(given, n, name), ids, name)
        for name, given in (("mean", mean), ("variance", variance))
    ]
    pin_threads()
    try:
        builder = CohortBuilder(samples, phenotype, *covariates)
        cohort = builder.build(_TRAIT)
        effects = None
        if random_effects is not None:
            block = _block(random_effects, n, "random_effects")
            names = tuple(str(k) for k in range(len(block)))
            source = RandomEffectSource(
                block, names, ("1",) * len(block), np.arange(n), None, "arrays"
            )
            found = source.for_people(cohort.samples, _TRAIT)
            principal = cohort.variance_design.matrix.shape[1] == 1
            effects = _as_stored(found, principal)
        model, fit = fit_cohort(cohort, effects, seed_mode=False, left_out=())
        return Null(model, fit, n)
    finally:
        let_go()


def fit_variants(
    null: Null,
    genotypes: ArrayLike,
    *,
    method: Literal["mle", "score"] = "mle",
    refine_threshold: float | None = None,
    se: Literal["expected", "observed"] = "expected",
    sandwich: bool = False,
    likelihood_ratio: bool = False,
    min_maf: float = DEFAULT_MIN_MAF,
    min_mac: float = DEFAULT_MIN_MAC,
    max_missing: float = DEFAULT_MAX_MISSING,
    min_info: float | None = None,
    hwe: float | None = None,
) -> xr.Dataset:
    """Fit variants on a null model; the numbers are those of a scan.

    Parameters
    ----------
    null : Null
        Of :func:`fit_null`.
    genotypes : array, shape (variants, n)
        Copies or dosages of the effect allele of the people of `y`, in their order; NaN or −1 where
        missing. Dosages are rounded to steps of 1/32767. Everybody has two copies.
    method, refine_threshold, se, sandwich, likelihood_ratio
        As of :func:`scan`.
    min_maf, min_mac, max_missing, min_info, hwe
        Filters, as of :func:`scan`.

    Returns
    -------
    xarray.Dataset
        Variables of a result store along ``variant``, with their attributes.

    Raises
    ------
    InputError
        If the shape does not fit, a value is no genotype, or an option is out of range.

    Examples
    --------
    >>> rng = np.random.default_rng(1)
    >>> g = rng.binomial(2, 0.3, (3, 500))
    >>> y = (1 + 0.5 * g[1]) * rng.standard_normal(500)
    >>> table = hs.fit_variants(hs.fit_null(y), g)
    >>> int(table["var_neg_log10_p"].argmax("variant"))
    1
    """
    for name, value, known in (("method", method, METHODS), ("se", se, INFORMATION)):
        if value not in known:
            hint = nearest(str(value), known)
            raise InputError(f"{name} must be one of {', '.join(known)}, not '{value}'{hint}")
    if refine_threshold is not None and method != "score":
        raise InputError("refine_threshold needs method score")
    block = _block(genotypes, null.n_given, "genotypes")
    soft = block.unit > 0
    asked = {
        "min_maf": min_maf,
        "min_mac": min_mac,
        "max_missing": max_missing,
        "se": se,
        "sandwich": sandwich,
        "likelihood_ratio": likelihood_ratio,
        "screen": method == "score",
        "refine_below": refine_threshold,
        "min_info": min_info,
        "hwe": hwe,
    }
    options = options_of(asked, dosages=soft)
    m = len(block)
    contigs = np.full(m, "1", object)
    # In the blocks of a dataset that `convert` makes: which variants share a matrix product shows
    # in the last digits.
    step = default_chunk_variants(null.n_given, m, dosages=soft)
    pin_threads()
    try:
        parts = [
            fit_block(null.model, block.take(rows), contigs[rows], options)
            for rows in (slice(first, first + step) for first in range(0, m, step))
        ]
    finally:
        let_go()
    variables = result_variables(
        random_effects=null.model.random_effects is not None,
        sandwich=sandwich,
        likelihood_ratio=likelihood_ratio,
        info=options.info,
        hwe=options.hwe,
    )
    import xarray as xr

    return xr.Dataset(
        {
            v.name: (
                "variant",
                np.concatenate([part[v.name] for part in parts]).astype(v.dtype),
                v.attributes(),
            )
            for v in variables
        }
    )


def _as_stored(effects: RandomEffects, principal: bool) -> RandomEffects:
    """Return random effects as tasks of a scan read them: its numbers are to be these."""
    parent = zarr.open_group(zarr.storage.MemoryStore(), mode="w")
    name = write_random_effects(parent, effects, effects.set_names(()), principal=principal)
    group = parent[name]
    assert isinstance(group, zarr.Group)
    return read_random_effects(group)


def _columns(given: Any, n: int, what: str) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return covariates as columns, and their names."""
    if isinstance(given, pd.DataFrame):
        names = tuple(map(str, given.columns))
        values = given.to_numpy(np.float64)
    else:
        values = np.array(given, np.float64)
        values = values[:, None] if values.ndim == 1 else values
        names = tuple(f"x{k}" for k in range(1, values.shape[-1] + 1))
    if values.ndim != 2 or len(values) != n:
        raise InputError(f"{what}: shape {values.shape} where y has {n:,} people")
    if np.isinf(values).any():
        raise InputError(f"{what}: a value is not finite")
    return values, names


def _table(
    values: NDArray[np.float64], names: Sequence[str], ids: NDArray[np.object_], what: str
) -> Table:
    if np.isinf(values).any():
        raise InputError(f"{what}: a value is not finite")
    columns = np.ascontiguousarray(values)
    return Table(Path(what), None, ids, tuple(names), columns, sha256="")


def _block(genotypes: Any, n: int, what: str) -> GenotypeBlock:
    """Return an array of copies or dosages as kernels take it."""
    values = np.asarray(genotypes)
    if values.ndim == 1:
        values = values[None, :]
    if values.ndim != 2 or values.shape[1] != n:
        raise InputError(
            f"{what}: shape {values.shape}, but y has {n:,} people: (variants, people)"
        )
    if not len(values):
        raise InputError(f"{what}: no variants")
    calls = hard_calls(values)
    if calls is not None:
        return HardCalls.of(calls)
    return Dosages(encode_dosages(np.where(values == -1, np.nan, values), FINEST), FINEST)
