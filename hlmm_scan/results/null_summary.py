"""What readers of results ask of a null model and no person in particular can be seen in."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import zarr

from hlmm_scan.storage.arrays import CheckedArray, compressors

SHAPE = "trait_shape"
"""Attribute of a published null model: what :func:`trait_shape` gives, as people are not there."""

FEW_VALUES = "few_values"
"""The same of :func:`takes_few_values`."""

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


def trait_shape(group: zarr.Group) -> tuple[int, float, float]:
    """Return how many people were analysed, and the trait's skewness and excess kurtosis.

    Parameters
    ----------
    group : zarr.Group
        Of a phenotype's null model, in the store of a scan or in a published one.
    """
    if SHAPE in group.attrs:
        people, skewness, excess = cast(list[float], group.attrs[SHAPE])
        return int(people), float(skewness), float(excess)
    y = np.asarray(_stored(group, "y")[:], np.float64)
    centred = y - y.mean()
    t = centred / np.sqrt((centred**2).mean())
    return len(y), float((t**3).mean()), float((t**4).mean()) - 3.0


def takes_few_values(group: zarr.Group) -> bool:
    """Whether people have at most 20 values of the trait among them, as counts and grades do.

    Parameters
    ----------
    group : zarr.Group
        As above. False where a store published before this was asked does not say.
    """
    if "y" not in group:
        return bool(group.attrs.get(FEW_VALUES, False))
    return len(np.unique(_stored(group, "y")[:])) <= _FEW


def copy_summary(group: zarr.Group, target: zarr.Group) -> None:
    """Copy what a null model says of nobody in particular, chosen by name, and of those below it.

    Parameters
    ----------
    group : zarr.Group
    target : zarr.Group
        Empty.
    """
    kept = {name: group.attrs[name] for name in ATTRIBUTES if name in group.attrs}
    shape, few = list(trait_shape(group)), takes_few_values(group)
    target.attrs.put({**kept, SHAPE: shape, FEW_VALUES: few})
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


def _stored(group: zarr.Group, name: str) -> CheckedArray:
    return CheckedArray(cast(zarr.Array[Any], group[name]))
