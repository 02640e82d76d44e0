"""What readers of results ask of a null model and no person in particular can be seen in."""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import zarr

from hlmm_scan.array_types import Float
from hlmm_scan.storage.arrays import CheckedArray, compressors

SHAPE = "trait_shape"
"""Attribute of a published null model: what :func:`trait_shape` gives, as people are not there."""

_FEW = 20
"""Values up to which a trait is a lattice rather than a measurement."""

ATTRIBUTES = (
    *("phenotype", "y_scale", "two_valued", "people", "people_in_genotypes", "dropped", "serves"),
    *("phenotyped_but_not_in_genotypes", "covariate_fit", "served_by_others", "haploid_regions"),
)
ARRAYS = (
    *("left_out_contig", "alpha", "beta", "random_variance", "log_likelihood", "moments"),
    "status",
)
"""A number or a few for each set of random effects, none for a person."""


class TraitShape(NamedTuple):
    """What is said of a trait as analysed.

    Attributes
    ----------
    people : int
    skewness, excess_kurtosis : float
    few_values : bool
        Whether people have at most 20 values of it among them, as counts and grades do.
    outlier : float, default 0
        Share that the most outlying person has of the variance of t², t the standardised trait.
    """

    people: int
    skewness: float
    excess_kurtosis: float
    few_values: bool
    outlier: float = 0.0


def trait_shape(group: zarr.Group) -> TraitShape:
    """Return the shape of a trait.

    Parameters
    ----------
    group : zarr.Group
        Of a phenotype's null model, in the store of a scan or in a published one. One published
        before few values or outliers were asked for is taken to have none.
    """
    if SHAPE in group.attrs:
        said = cast(list[float | None], group.attrs[SHAPE])
        people, skewness, excess, *more = (np.nan if one is None else one for one in said)
        few, outlier = (*more, *(0.0, 0.0)[len(more) :])
        return TraitShape(int(people), float(skewness), float(excess), bool(few), float(outlier))
    return shape_of(np.asarray(_stored(group, "y")[:], np.float64))


def shape_of(y: Float) -> TraitShape:
    """Return the shape of a trait of the people analysed, shape (n,)."""
    centred = y - y.mean()
    t = centred / np.sqrt((centred**2).mean())
    few_values, squares = len(np.unique(y)) <= _FEW, (t**2 - 1) ** 2
    outlier = float(squares.max() / max(squares.sum(), 1e-300))
    excess = float((t**4).mean()) - 3.0
    return TraitShape(len(y), float((t**3).mean()), excess, few_values, outlier)


def copy_summary(group: zarr.Group, target: zarr.Group) -> None:
    """Copy what a null model says of nobody in particular, chosen by name, and of those below it.

    Parameters
    ----------
    group : zarr.Group
    target : zarr.Group
        Empty.
    """
    kept = {name: group.attrs[name] for name in ATTRIBUTES if name in group.attrs}
    target.attrs.put({**kept, SHAPE: list(trait_shape(group))})
    for name in ARRAYS:
        array = _stored(group, name)
        copy = target.create_array(
            name,
            shape=array.shape,
            chunks=array.chunks,
            dtype=array.dtype,
            dimension_names=getattr(array.zarr.metadata, "dimension_names", None),
            compressors=compressors(),
        )
        CheckedArray(copy)[...] = array[...]
    if "others" in group:
        others = cast(zarr.Group, group["others"])
        for name, other in others.groups():
            copy_summary(other, target.require_group(f"others/{name}"))


def write_pooled_summary(group: zarr.Group, phenotype: str, shape: TraitShape) -> None:
    """Write what readers look for in a null model, of cohorts that were pooled.

    Parameters
    ----------
    group : zarr.Group
        Empty.
    phenotype : str
    shape : TraitShape
        Of the trait over all cohorts; NaN where they do not say it. That of the residuals is taken
        to be the same.
    """
    people = dict.fromkeys(("people", "people_in_genotypes"), shape.people)
    said = [None if np.isnan(value) else value for value in shape]
    group.attrs.put({"phenotype": phenotype, **people, "dropped": {}, SHAPE: said})
    moments = np.array([[shape.skewness, shape.excess_kurtosis + 3.0]])
    array = group.create_array(
        "moments", shape=moments.shape, dtype="float64", compressors=compressors()
    )
    CheckedArray(array)[...] = moments


def _stored(group: zarr.Group, name: str) -> CheckedArray:
    return CheckedArray(cast(zarr.Array[Any], group[name]))
