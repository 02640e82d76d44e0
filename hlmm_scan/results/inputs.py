"""What a scan was made of, found again from its result store: null models and genotypes."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Sequence
from contextlib import ExitStack

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes import in_use as genotypes_in_use
from hlmm_scan.genotypes.joined import Genotypes, chosen_variants
from hlmm_scan.genotypes.open import open_genotypes
from hlmm_scan.null.model import NullModel
from hlmm_scan.null.serving import DEFAULT
from hlmm_scan.null.store import read_null_model, read_random_effects
from hlmm_scan.results.mark import REMEDY
from hlmm_scan.results.publish import is_published, require_people
from hlmm_scan.results.store import ResultStore
from hlmm_scan.staging import stands
from hlmm_scan.storage import Place, place

logger = logging.getLogger(__name__)


def stored_null_model(store: ResultStore, phenotype: str, key: str = DEFAULT) -> NullModel:
    """Return the null model of a phenotype as the scan's tasks have it.

    Parameters
    ----------
    store : ResultStore
    phenotype : str
    key : str, optional
        Of a null model of some chromosomes, as :func:`~hlmm_scan.null.store.read_serving` has it.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    require_people(store, "the null model")
    try:
        default = None if key == DEFAULT else stored_null_model(store, phenotype)
        group = store.null_group(phenotype, key)
        shared = str(group.attrs["random_effects"])
        effects = read_random_effects(store.group(f"random_effects/{shared}")) if shared else None
        return read_null_model(group, effects, default)
    except (KeyError, ValueError, RuntimeError, TypeError) as error:
        raise InputError(
            f"{store.path}: the null model of {phenotype} cannot be read ({error}); {REMEDY}"
        ) from error


def scanned_genotypes(store: ResultStore, paths: Sequence[Place] = ()) -> Genotypes | None:
    """Open the genotypes that were scanned: a variant for each row of the results.

    Parameters
    ----------
    store : ResultStore
    paths : sequence of Path or ObjectPath, optional
        Where they are now. By default where they were.

    Returns
    -------
    GenotypeDataset, JoinedGenotypes or None
        None where no path is given and they are no longer where they were, or others are.

    Raises
    ------
    InputError
        If what is at `paths` is not what was scanned.
    StoreHeldError
        If they are being replaced. Nobody can replace them while what this returns is in use.
    """
    attributes = store.attributes
    if paths:
        require_people(store, "--genotypes")
    elif is_published(store):
        return None
    there = list(paths)
    if not there:
        known = attributes.get("inputs", {}).get("genotypes", [])
        there = [place(path) for path in ([known] if isinstance(known, str) else known)]
        if not there or not all(map(stands, there)):
            return None
    held = ExitStack()  # for as long as they are in use
    held.enter_context(genotypes_in_use.being_read(there))
    genotypes = open_genotypes(there)
    if genotypes.fingerprint == attributes.get("parameters", {}).get("genotypes"):
        chosen = chosen_variants(genotypes, store.genotype_rows)
        weakref.finalize(chosen, held.close)
        return chosen
    words = f"{', '.join(map(str, there))}: not the genotypes that {store.path} was made of"
    if paths:
        raise InputError(f"{words}; name those")
    logger.warning("%s", words)
    return None
