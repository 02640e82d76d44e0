"""Null models in the result store: written once by prepare, read by every task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from hlmm_scan.null.model import NullFit, NullModel, RandomEffects
from hlmm_scan.schema import Status


def write_null_model(group: zarr.Group, model: NullModel, attributes: Mapping[str, Any]) -> None:
    """Write a null model into its (empty) group.

    Parameters
    ----------
    group : zarr.Group
    model : NullModel
    attributes : mapping
        What a reader wants to know and no task needs: who was dropped, effects in the user's
        units.
    """
    _put(group, "samples", model.samples, ("sample",))
    _put(group, "y", model.y, ("sample",))
    _put(group, "mean_design", model.mean_design, ("sample", "mean_covariate"))
    _put(group, "variance_design", model.variance_design, ("sample", "variance_covariate"))
    sets = ("random_effect_set",)
    names = list(model.fits)
    fits = list(model.fits.values())
    _put(group, "left_out_contig", _text(names), sets)
    _put(group, "alpha", np.stack([f.alpha for f in fits]), (*sets, "mean_covariate"))
    _put(group, "beta", np.stack([f.beta for f in fits]), (*sets, "variance_covariate"))
    _put(group, "random_variance", np.array([f.random_variance for f in fits]), sets)
    _put(group, "log_likelihood", np.array([f.log_likelihood for f in fits]), sets)
    _put(group, "moments", np.array([f.moments for f in fits]), (*sets, "moment"))
    _put(group, "status", np.array([f.status for f in fits], np.int8), sets)
    if model.random_effects is not None:
        effects = model.random_effects
        column = ("random_effect",)
        _put(group, "random_effect_columns", effects.columns, ("sample", *column))
        _put(group, "random_effect_contig", _text(effects.contigs), column)
        _put(group, "random_effect_id", _text(effects.variant_ids), column)
    group.attrs.update({"phenotype": model.phenotype, "y_scale": model.y_scale, **attributes})


def read_null_model(group: zarr.Group) -> NullModel:
    """Read what :func:`write_null_model` wrote, bit for bit."""

    def get(name: str) -> NDArray[Any]:
        return np.asarray(cast(zarr.Array[Any], group[name])[...])

    fits = {
        str(name): NullFit(
            alpha, beta, float(h2), float(log_likelihood), Status(int(status)), *moments
        )
        for name, alpha, beta, h2, log_likelihood, status, moments in zip(
            get("left_out_contig"),
            get("alpha"),
            get("beta"),
            get("random_variance"),
            get("log_likelihood"),
            get("status"),
            get("moments").tolist(),
            strict=True,
        )
    }
    effects = None
    if "random_effect_columns" in group:
        effects = RandomEffects(
            columns=get("random_effect_columns"),
            contigs=tuple(str(c) for c in get("random_effect_contig")),
            variant_ids=tuple(str(v) for v in get("random_effect_id")),
        )
    return NullModel(
        phenotype=str(group.attrs["phenotype"]),
        samples=get("samples"),
        y=get("y"),
        mean_design=get("mean_design"),
        variance_design=get("variance_design"),
        y_scale=float(cast(float, group.attrs["y_scale"])),
        fits=fits,
        random_effects=effects,
    )


def _text(values: Any) -> NDArray[np.object_]:
    return np.array(list(values), dtype=object)


def _put(group: zarr.Group, name: str, values: NDArray[Any], dims: tuple[str, ...]) -> None:
    """Store an array, chunked along people only so that a chunk stays near 16 MiB."""
    width = max(1, values.size // max(1, len(values))) * 8
    rows = max(1, min(len(values), (16 << 20) // width))
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=(rows, *(max(1, s) for s in values.shape[1:])),
        dtype=str if values.dtype == object else values.dtype,
        dimension_names=dims,
    )
    with zarr.config.set({"array.write_empty_chunks": True}):
        array[...] = values
