"""Variables that are derived from a complete store, put into it beside those of the scan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from hlmm_scan.results.in_use import being_changed
from hlmm_scan.results.store import ResultStore
from hlmm_scan.schema import Variable
from hlmm_scan.staging import write_error
from hlmm_scan.storage.places import ROOT, read_json


def write_derived(
    store: ResultStore,
    variables: Sequence[Variable],
    chunks: Iterable[tuple[int, int, Mapping[str, NDArray[Any]]]],
    attributes: Mapping[str, Any],
) -> None:
    """Put derived variables into a complete store, in place of those of the same names.

    Readers that open the store meanwhile, or after a write that was cut short, find it without
    these variables and attributes, and otherwise as it was: what the consolidated metadata do
    not name is not there.

    Parameters
    ----------
    store : ResultStore
    variables : sequence of Variable
        Of :data:`hlmm_scan.schema.DERIVED_RESULTS`.
    chunks : iterable of (int, int, mapping of str to ndarray)
        Phenotype, first variant, and the values of all `variables` from there on, in whole
        chunks of the store; what is not given stays missing.
    attributes : mapping
        Put on the root with them, JSON types only.

    Raises
    ------
    IncompleteError
        If the scan is not complete.
    StoreHeldError
        If another run holds the store, or somebody reads it.
    HlmmScanError
        If it cannot be written.
    """
    store.require_complete()
    names = [v.name for v in variables]

    def without(metadata: dict[str, Any]) -> None:
        for name in names:
            metadata["consolidated_metadata"]["metadata"].pop(name, None)
        for name in attributes:
            metadata["attributes"].pop(name, None)

    def with_them(metadata: dict[str, Any]) -> None:
        for name in names:
            stored = read_json(store.path / name / ROOT)
            metadata["consolidated_metadata"]["metadata"][name] = stored
        metadata["attributes"].update(attributes)

    like = store.array("status")
    try:
        with store.ledger.lock(), being_changed(store.path):
            store.edit_root(without)
            for variable in variables:
                store.make_array(variable, like.shape, like.chunks, overwrite=True)
            for phenotype, start, values in chunks:
                store.write_columns(phenotype, start, {name: values[name] for name in names})
            store.flush()
            store.list_written(names)
            store.edit_root(with_them)
    except OSError as error:
        raise write_error(store.path, error) from error
