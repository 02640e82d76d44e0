"""Genotypes as a caller has them: files, datasets, and arrays in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from hlmm_scan import storage
from hlmm_scan.cohort.frames import is_labelled
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion.convert import convert as convert_files
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.genotypes.joined import JoinedGenotypes
from hlmm_scan.genotypes.open import SourceOptions
from hlmm_scan.genotypes.open import open_genotypes as open_paths
from hlmm_scan.genotypes.vcf_zarr import DESCRIBING, FIELDS
from hlmm_scan.scan.clusters import Cluster, GivenClient, RunningScheduler
from hlmm_scan.scan.conversion import DaskPool
from hlmm_scan.scan.progress import Progress
from hlmm_scan.storage import ObjectPath, Place

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

VARIANT_COLUMNS = ("contig", "position", "variant_id", "effect_allele", "other_allele")


def convert(
    sources: Any,
    output: Place | str,
    *,
    chunk_variants: int | None = None,
    overwrite: bool = False,
    sample: Path | str | None = None,
    bgen_effect_allele: Literal["second", "first"] = "second",
    id_delim: str | None = None,
    samples: ArrayLike | None = None,
    variants: pd.DataFrame | None = None,
    workers: int = 1,
    client: Any = None,
    scheduler: str | None = None,
    progress: bool = False,
) -> GenotypeDataset:
    """Convert genotypes to a Zarr genotype dataset, which scans read fastest.

    Parameters
    ----------
    sources : path, sequence of paths, xarray.Dataset or array, shape (variants, people)
        PLINK .bed, BGEN, PGEN, VCF, BCF files or VCF-Zarr stores, one or one per chromosome; or
        genotypes in memory, as :func:`scan` takes them.
    output : Path or str
        Where the dataset will stand, also an address in an object store.
    chunk_variants : int, optional
        Variants per chunk.
    overwrite : bool, default False
        Replace a genotype dataset of this package.
    sample : Path or str, optional
        The .sample of BGEN files, where it does not lie beside.
    bgen_effect_allele : {"second", "first"}, default "second"
    id_delim : str, optional
        What parts FID and IID where the file has them as one id.
    samples : array of str, shape (people,), optional
        With an array: their ids.
    variants : pandas.DataFrame, optional
        With an array: contig, position, variant_id, effect_allele, other_allele.
    workers : int, default 1
        Processes of this machine.
    client : distributed.Client, optional
        Whose workers do the work; it is left open.
    scheduler : str, optional
        Address of a running Dask scheduler.
    progress : bool, default False
        Show progress on a terminal, and log it elsewhere.

    Returns
    -------
    GenotypeDataset

    Raises
    ------
    InputError
        In one line, what of the genotypes is wrong.

    Examples
    --------
    >>> genotypes = hs.convert("cohort/chr1.bed", "one.zarr")
    >>> genotypes.n_samples
    150
    """
    if workers < 1:
        raise InputError(f"workers must be at least 1, not {workers}")
    if client is not None and scheduler is not None:
        raise InputError("client and scheduler exclude each other")
    cluster: Cluster | None = GivenClient(client) if client is not None else None
    if scheduler is not None:
        cluster = RunningScheduler(scheduler)
    shown: Any = Progress(0, "variants") if progress else nullcontext()
    with _as_files(sources, samples, variants) as files, shown as told:
        return convert_files(
            files,
            output,
            chunk_variants=chunk_variants,
            overwrite=overwrite,
            progress=told,
            options=SourceOptions(
                None if sample is None else Path(sample), bgen_effect_allele, id_delim
            ),
            workers=workers,
            pool=None if cluster is None else DaskPool(cluster),
        )


def open_genotypes(
    paths: Place | str | Sequence[Place | str],
) -> GenotypeDataset | JoinedGenotypes:
    """Open a genotype dataset or VCF-Zarr store, or several of the same people as one.

    Parameters
    ----------
    paths : path or sequence of paths

    Raises
    ------
    InputError
        If one cannot be opened, or they are of different people.

    Examples
    --------
    >>> hs.open_genotypes("genotypes.zarr").contigs
    ('1', '2', '3')
    """
    return open_paths(list(places_of(paths)))


def places_of(genotypes: Any) -> tuple[Place, ...]:
    """Return where genotypes are: those of datasets, of a path, or of a sequence of either."""
    if isinstance(genotypes, GenotypeDataset | JoinedGenotypes):
        return genotypes.paths
    if isinstance(genotypes, str | Path | ObjectPath):
        return (storage.place(genotypes),)
    return tuple(place for one in genotypes for place in places_of(one))


def in_memory(genotypes: Any) -> bool:
    """Say whether genotypes are arrays, and neither files nor datasets of ours."""
    return is_labelled(genotypes) or hasattr(genotypes, "__array__")


@contextmanager
def _as_files(
    sources: Any, samples: ArrayLike | None, variants: pd.DataFrame | None
) -> Iterator[list[Path | str]]:
    """Give the paths of genotypes; arrays lie in a temporary VCF-Zarr store meanwhile."""
    if not in_memory(sources):
        if samples is not None or variants is not None:
            raise InputError("samples and variants describe an array; files have their own")
        one = isinstance(sources, str | Path | ObjectPath)
        yield [sources] if one else list(sources)
        return
    with tempfile.TemporaryDirectory(prefix="hlmm-scan-") as folder:
        path = Path(folder) / "genotypes.vcz"
        _write_vcf_zarr(
            sources if is_labelled(sources) else _labelled(sources, samples, variants), path
        )
        yield [path]


def _write_vcf_zarr(dataset: Any, path: Path) -> None:
    """Write what is read of an sgkit dataset."""
    fields = [name for name in FIELDS if name in dataset]
    absent = [name for name in DESCRIBING if name not in dataset]
    if not fields or absent:
        what = ", ".join(absent or ["call_genotype or call_dosage"])
        raise InputError(
            f"genotypes: the xarray Dataset has no {what}, as sgkit and VCF-Zarr name them"
        )
    wanted = [*DESCRIBING, *fields, *(n for n in ("contig_id", "variant_id") if n in dataset)]
    if "contig_id" not in dataset and "contigs" not in dataset.attrs:
        raise InputError("genotypes: the xarray Dataset has no contig_id, the names of chromosomes")
    chosen = (
        dataset[wanted]
        .reset_coords()
        .drop_vars([n for n in dataset.coords if n not in wanted], errors="ignore")
    )
    step = max(64, (16 << 20) // max(1, int(dataset.sizes["samples"])))
    for name in wanted:
        if name in fields:
            whole = {d: -1 for d in chosen[name].dims if d != "variants"}
            chosen[name] = chosen[name].chunk({"variants": step, **whole})
        elif chosen[name].dtype.kind in "SU":
            texts = chosen[name].values
            texts = np.char.decode(texts) if texts.dtype.kind == "S" else texts
            chosen[name] = (chosen[name].dims, texts.astype(object))
        else:
            chosen[name].load()
        chosen[name].encoding = {}
    old = dataset.attrs.get("contigs")
    chosen.attrs = {} if old is None else {"contigs": [str(one) for one in old]}
    # By threads of this process, whose folder it is, also where a client is everybody's default.
    writing = chosen.to_zarr(path, mode="w", zarr_format=3, consolidated=False, compute=False)
    writing.compute(scheduler="threads")


def _labelled(array: Any, samples: ArrayLike | None, variants: pd.DataFrame | None) -> Any:
    """Return an array of copies or dosages as sgkit would have it."""
    import xarray as xr

    copies = np.asarray(array)
    if copies.ndim != 2:
        raise InputError(f"genotypes: an array has shape (variants, people), not {copies.shape}")
    if samples is None or variants is None:
        raise InputError("genotypes: an array needs samples=ids and variants=DataFrame(contig, …)")
    ids = [str(one) for one in np.asarray(samples).tolist()]
    absent = [name for name in VARIANT_COLUMNS if name not in variants.columns]
    if absent:
        raise InputError(f"variants: no column {', '.join(absent)}")
    if copies.shape != (len(variants), len(ids)):
        raise InputError(
            f"genotypes: shape {copies.shape}, but there are {len(variants):,} variants and "
            f"{len(ids):,} samples"
        )
    names = list(dict.fromkeys(map(str, variants["contig"])))
    place = {name: k for k, name in enumerate(names)}
    alleles = np.array(
        [list(map(str, pair)) for pair in variants[["other_allele", "effect_allele"]].to_numpy()],
        object,
    )
    described = {
        "contig_id": ("contigs", np.array(names, object)),
        "sample_id": ("samples", np.array(ids, object)),
        "variant_contig": ("variants", np.array([place[str(c)] for c in variants["contig"]], "i4")),
        "variant_position": ("variants", variants["position"].to_numpy("i4")),
        "variant_id": ("variants", np.array(list(map(str, variants["variant_id"])), object)),
        "variant_allele": (("variants", "alleles"), alleles),
    }
    calls = hard_calls(copies)
    if calls is None:
        dosages = np.where(copies == -1, np.nan, copies)
        described["call_dosage"] = (("variants", "samples"), dosages)
    else:
        pair = np.stack([calls == 2, calls >= 1], axis=-1).astype(np.int8)
        pair[calls < 0] = -1
        described["call_genotype"] = (("variants", "samples", "ploidy"), pair)
    return xr.Dataset(described)


def hard_calls(copies: Any) -> Any:
    """Return whole copies as int8, −1 where missing; None where there are dosages.

    Raises
    ------
    InputError
        On a value that is neither missing nor between 0 and 2.
    """
    values = np.asarray(copies)
    gone = values == -1
    if values.dtype.kind == "f":
        gone |= np.isnan(values)
    elif values.dtype.kind not in "iub":
        raise InputError(f"genotypes: numbers are needed, not {values.dtype}")
    with np.errstate(invalid="ignore"):
        wrong = ~gone & ~((values >= 0) & (values <= 2))
    if wrong.any():
        row, person = np.argwhere(wrong)[0].tolist()
        raise InputError(
            f"genotypes: variant {row + 1}, person {person + 1}: {values[row, person]:g} is "
            "neither between 0 and 2 copies nor missing (NaN or -1)"
        )
    called = np.where(gone, 0, values)
    if (called % 1).any():
        return None
    return np.where(gone, -1, called).astype(np.int8)
