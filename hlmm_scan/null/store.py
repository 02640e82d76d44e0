"""Null models in the result store: written once by prepare, read by every task.

Random effects stand apart from them, once for all phenotypes of the same people. Their big arrays
are mapped from files of this host, see :mod:`hlmm_scan.null.host_cache`; everything else is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from hlmm_scan.genotypes.chromosomes import HUMAN_AUTOSOMES
from hlmm_scan.genotypes.ploidy import HaploidRegions, Ploidy
from hlmm_scan.null.eigen import Eigenstructure
from hlmm_scan.null.host_cache import StoredArray, digest_of, strips_of
from hlmm_scan.null.model import NullFit, NullModel, RandomEffects
from hlmm_scan.null.serving import Kind, Serving
from hlmm_scan.null.work import InTurn, Work, digest_of_parts
from hlmm_scan.schema import Status
from hlmm_scan.storage.arrays import CheckedArray, compressors, flush

_DESIGNS = ("mean_design", "variance_design")


def write_null_model(
    group: zarr.Group,
    model: NullModel,
    attributes: Mapping[str, Any],
    default: NullModel | None = None,
) -> None:
    """Write a null model into its (empty) group.

    Parameters
    ----------
    group : zarr.Group
    model : NullModel
        Its random effects are not written here, but by :func:`write_random_effects`.
    attributes : mapping
        What a reader wants to know and no task needs: who was dropped, effects in the user's
        units.
    default : NullModel, optional
        The phenotype's default null model, where this is another one of it: what they have in
        common, as people and covariates, is not written again.
    """
    same_people = default is not None and np.array_equal(model.samples, default.samples)
    shared = default if same_people else None
    if shared is None:
        _put(group, "samples", model.samples, ("sample",))
    _put(group, "y", model.y, ("sample",))
    for name in _DESIGNS:
        matrix = getattr(model, name)
        start = 0 if shared is None else _columns_in_common(matrix, getattr(shared, name))
        if start < matrix.shape[1]:
            dims = ("sample", name.replace("design", "covariate"))
            _put(group, name, matrix[:, start:], dims, {"columns_of_default": start})
    if model.environment is not None:
        scale = {"scale": model.environment_scale}
        _put(group, "environment", model.environment, ("sample",), scale)
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
    group.attrs.update(
        {
            "phenotype": model.phenotype,
            "y_scale": model.y_scale,
            "two_valued": model.two_valued,
            **attributes,
        }
    )


def read_null_model(
    group: zarr.Group,
    random_effects: RandomEffects | None = None,
    default: NullModel | None = None,
) -> NullModel:
    """Read what :func:`write_null_model` wrote, bit for bit.

    Parameters
    ----------
    group : zarr.Group
    random_effects : RandomEffects, optional
        Of the people of this phenotype.
    default : NullModel, optional
        As it was given when this was written.
    """
    get = partial(_get, group)
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
    return NullModel(
        phenotype=str(group.attrs["phenotype"]),
        samples=get("samples") if "samples" in group else _of(default).samples,
        y=get("y"),
        mean_design=_design(group, "mean_design", default),
        variance_design=_design(group, "variance_design", default),
        y_scale=float(cast(float, group.attrs["y_scale"])),
        fits=fits,
        random_effects=random_effects,
        environment=get("environment") if "environment" in group else None,
        environment_scale=_scale(group) if "environment" in group else 1.0,
        two_valued=bool(group.attrs.get("two_valued", False)),
    )


def write_serving(group: zarr.Group, serving: Serving, samples: NDArray[np.int64]) -> None:
    """Write into a phenotype's group which of its null models serves what.

    Parameters
    ----------
    group : zarr.Group
        Of the default null model.
    serving : Serving
    samples : ndarray of int64, shape (n,)
        People of the default null model: the sex of others is not kept.
    """
    keys = [[kind.contig, kind.ploidy.name, key] for kind, key in serving.keys.items()]
    group.attrs["served_by_others"] = keys
    if serving.regions is not None and serving.sex is not None:
        group.attrs["haploid_regions"] = asdict(serving.regions)
        _put(group, "sex", serving.sex[samples], ("sample",))


def read_serving(group: zarr.Group, n_samples: int) -> Serving:
    """Read what :func:`write_serving` wrote.

    Parameters
    ----------
    group : zarr.Group
        Of the default null model.
    n_samples : int
        People of the genotype dataset.
    """
    stored = cast(list[list[str]], group.attrs.get("served_by_others", []))
    keys = {Kind(contig, Ploidy[ploidy]): key for contig, ploidy, key in stored}
    if "sex" not in group:
        return Serving(keys)
    sex = np.zeros(n_samples, np.int8)
    sex[_get(group, "samples")] = _get(group, "sex")
    regions = cast(dict[str, Any], group.attrs["haploid_regions"])
    return Serving(keys, HaploidRegions(**regions), sex)


def write_random_effects(
    parent: zarr.Group,
    effects: RandomEffects,
    left_out: Iterable[str],
    *,
    principal: bool = True,
    work: Work | None = None,
) -> str:
    """Write random effects and their eigenstructures, unless the same are there already.

    Parameters
    ----------
    parent : zarr.Group
        Holds one group for each distinct set of people, named by what it holds.
    effects : RandomEffects
        With columns.
    left_out : iterable of str
        Names of the sets wanted, as :meth:`RandomEffects.set_names` gives them.
    principal : bool, default True
        Whether someone needs principal axes: models whose log-variance has no covariates.
    work : Work, optional
        Makes several sets at a time. What an earlier run made and `work` kept the name of is
        taken as it is.

    Returns
    -------
    str
        Name of the group.

    Notes
    -----
    Where l ≤ n: the columns, and for each set its eigenvalues and rotation. Where l > n: for each
    set its eigenvalues and F; nothing asks for the columns any more.
    """
    assert effects.columns is not None
    names = list(left_out)
    described = [_digest(effects.columns), *effects.contigs, "", *effects.variant_ids, "", *names]
    n, l_random = effects.columns.shape
    if not principal and l_random > n:
        described.append("any factor")
    name = hashlib.sha256("\n".join(described).encode()).hexdigest()[:32]
    group = parent.require_group(name)
    if "left_out_contig" in group:
        return name
    work = work or InTurn()
    for left in list(group.array_keys()):  # by a run that was cut off
        del group[left]
    group.attrs["autosomes"] = effects.autosomes
    column = ("random_effect",)
    if l_random <= n:
        _put_big(group, "columns", effects.columns, ("sample", *column), single=True)
    effects.prepare()

    def write_set(position: int) -> None:
        def write() -> dict[str, Any]:
            structure = effects.eigenstructure(names[position], principal=principal)
            part = group.create_group(f"set_{position}", overwrite=True)
            part.attrs["principal"] = structure.principal
            _put(part, "values", structure.values, ("axis",))
            if l_random <= n:
                _put_big(part, "rotation", structure.rotation, (*column, "axis"))
            else:
                _put_big(part, "factor", structure.columns, ("sample", "axis"), single=True)
            flush(part)  # what is kept as done must outlast a power cut
            return {}

        label = f"random effects, set {position + 1} of {len(names)}"
        work.kept(label, digest_of_parts(name, str(position)), write)

    for _ in work.each(write_set, range(len(names))):
        pass
    _put(group, "contig", _text(effects.contigs), column)
    _put(group, "variant_id", _text(effects.variant_ids), column)
    _put(group, "left_out_contig", _text(names), ("random_effect_set",))
    return name


def read_random_effects(group: zarr.Group) -> RandomEffects:
    """Return what :func:`write_random_effects` wrote, bit for bit, mapped as it is asked for.

    Raises
    ------
    InputError
        Here or later, if a big array is not what was written.
    """
    contigs = tuple(str(c) for c in _get(group, "contig"))
    return RandomEffects(
        columns=_mapped(group, "columns") if "columns" in group else None,
        contigs=contigs,
        variant_ids=tuple(str(v) for v in _get(group, "variant_id")),
        sets=_StoredSets(
            group,
            np.array(contigs, dtype=object),
            tuple(str(name) for name in _get(group, "left_out_contig")),
        ),
        autosomes=int(cast(int, group.attrs.get("autosomes", HUMAN_AUTOSOMES))),
    )


@dataclass(frozen=True, eq=False)
class _StoredSets(Mapping[str, Eigenstructure]):
    """The eigenstructures in a group of random effects."""

    group: zarr.Group
    contigs: NDArray[np.object_]
    names: tuple[str, ...]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, left_out: str) -> Eigenstructure:
        if left_out not in self.names:
            raise KeyError(left_out)
        part = cast(zarr.Group, self.group[f"set_{self.names.index(left_out)}"])
        values = _get(part, "values")
        if "columns" not in self.group:
            single = partial(_mapped_single, part, "factor")
            principal = bool(part.attrs.get("principal", True))
            return Eigenstructure.in_own_axes(
                _mapped(part, "factor"), values, single, principal=principal
            )
        chosen = np.flatnonzero(self.contigs != left_out)
        return Eigenstructure(
            _mapped(self.group, "columns"),
            chosen,
            float(1 / np.sqrt(len(chosen))),
            _mapped(part, "rotation"),
            values,
            partial(_mapped_single, self.group, "columns"),
        )


def _mapped(group: zarr.Group, name: str) -> NDArray[Any]:
    """Return an array that :func:`_put_big` wrote, in memory all processes of this host share."""
    array = cast(zarr.Array[Any], group[name])
    digest = str(array.attrs["digest"])
    return StoredArray(
        str(array.store_path), digest, array.shape, array.dtype, partial(_strips, array)
    ).mapped()


def _mapped_single(group: zarr.Group, name: str) -> NDArray[np.float32]:
    """Return the same in single precision."""
    array = cast(zarr.Array[Any], group[name])
    digest, dtype = str(array.attrs["single_digest"]), np.dtype(np.float32)
    return StoredArray(
        str(array.store_path),
        digest,
        array.shape,
        dtype,
        lambda: strips_of(_mapped(group, name), np.float32),
    ).mapped()


def _strips(array: zarr.Array[Any]) -> Iterator[NDArray[Any]]:
    rows, stored = array.chunks[0], CheckedArray(array)
    for start in range(0, array.shape[0], rows):
        yield np.ascontiguousarray(stored[start : start + rows])


def _put_big(
    group: zarr.Group,
    name: str,
    values: NDArray[Any],
    dims: tuple[str, ...],
    *,
    single: bool = False,
) -> None:
    """Store an array with its digest and, where asked for, that of a single-precision copy."""
    digests = {"digest": _digest(values)}
    if single:
        shape, dtype = values.shape, np.dtype(np.float32)
        digests["single_digest"] = digest_of(shape, dtype, strips_of(values, np.float32))
    _put(group, name, values, dims, digests)


def _digest(values: NDArray[Any]) -> str:
    return digest_of(values.shape, values.dtype, strips_of(values))


def _columns_in_common(matrix: NDArray[Any], default: NDArray[Any]) -> int:
    """Return how many columns a design shares with the default's: all of those, or none."""
    columns = default.shape[1]
    return columns if np.array_equal(matrix[:, :columns], default) else 0


def _design(group: zarr.Group, name: str, default: NullModel | None) -> NDArray[Any]:
    """Return a design that :func:`write_null_model` wrote, after the default's columns."""
    if name not in group:
        return cast(NDArray[Any], getattr(_of(default), name))
    own = _get(group, name)
    if not group[name].attrs.get("columns_of_default", 0):
        return own
    return np.ascontiguousarray(np.column_stack([getattr(_of(default), name), own]))


def _scale(group: zarr.Group) -> float:
    return float(cast(float, group["environment"].attrs["scale"]))


def _of(default: NullModel | None) -> NullModel:
    if default is None:
        raise ValueError("what it shares with the phenotype's default null model is not in it")
    return default


def _get(group: zarr.Group, name: str) -> NDArray[Any]:
    return CheckedArray(cast(zarr.Array[Any], group[name]))[...]


def _text(values: Any) -> NDArray[np.object_]:
    return np.array(list(values), dtype=object)


def _put(
    group: zarr.Group,
    name: str,
    values: NDArray[Any],
    dims: tuple[str, ...],
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Store an array, chunked along people only so that a chunk stays near 16 MiB."""
    width = max(1, values.size // max(1, len(values))) * 8
    rows = max(1, min(len(values), (16 << 20) // width))
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=(rows, *(max(1, s) for s in values.shape[1:])),
        dtype=str if values.dtype == object else values.dtype,
        dimension_names=dims,
        attributes=dict(attributes or {}),
        compressors=compressors(),
    )
    CheckedArray(array)[...] = values
