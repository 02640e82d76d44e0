"""What the ledger says of the chunks of an incomplete store, for those who read them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from hlmm_scan.results.records import PartitionRecord
from hlmm_scan.storage.checksums import CHUNK

_BYTES = 4


def chunk_place(phenotype: int, block: int) -> str:
    """Return where a chunk stands in the grid of a result variable, as its key says it."""
    return f"{phenotype}/{block}"


def chunk_key(variable: str, place: str) -> str:
    """Return the key of a chunk."""
    return f"{variable}{CHUNK}{place}"


def checksums_by_key(chunks: Mapping[str, str], variables: Sequence[str]) -> dict[str, int]:
    """Return what a record says of chunks, by their keys.

    Parameters
    ----------
    chunks : mapping of str to str
        As :class:`~hlmm_scan.results.records.PartitionRecord` has it.
    variables : sequence of str
    """
    found = {}
    for place, digits in chunks.items():
        values = bytes.fromhex(digits)
        for k, name in enumerate(variables):
            found[chunk_key(name, place)] = _at(values, k)
    return found


class RecordedChunks:
    """Checksums of the chunks of finished partitions, 4 bytes for each.

    Parameters
    ----------
    records : iterable of PartitionRecord
        In the order they were written.
    variables : sequence of str
        Of the store, in its order.
    """

    def __init__(self, records: Iterable[PartitionRecord], variables: Sequence[str]) -> None:
        self._column = {name: k for k, name in enumerate(variables)}
        by_partition: dict[int, list[Mapping[str, str]]] = {}
        for record in records:
            if record.revoked:
                by_partition.pop(record.partition, None)
            elif not record.failed:
                # One that was done twice has the same values, perhaps packed by another zstd.
                by_partition.setdefault(record.partition, []).append(record.chunks)
        self._by_place: dict[str, list[bytes]] = {}
        for all_chunks in by_partition.values():
            for chunks in all_chunks:
                for place, digits in chunks.items():
                    self._by_place.setdefault(place, []).append(bytes.fromhex(digits))

    def __call__(self, key: str) -> Collection[int] | None:
        """Return the checksums a chunk may have; None where its partition is not done."""
        variable, _, place = key.partition(CHUNK)
        column, found = self._column.get(variable), self._by_place.get(place)
        if column is None or found is None:
            return None
        return [_at(values, column) for values in found]


def _at(values: bytes, column: int) -> int:
    return int.from_bytes(values[_BYTES * column : _BYTES * (column + 1)], "big")
