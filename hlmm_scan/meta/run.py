"""A meta-analysis: cohorts in, a result store out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack

from hlmm_scan.errors import InputError
from hlmm_scan.meta.cohorts import common_autosomes, common_scale, open_cohorts
from hlmm_scan.meta.merging import windows
from hlmm_scan.meta.rows import Chromosomes, Rows, Source, UnsortedError
from hlmm_scan.meta.sorting import sorted_rows
from hlmm_scan.meta.writing import Pooling, Writer
from hlmm_scan.results.in_use import being_changed
from hlmm_scan.results.mark import read_mark
from hlmm_scan.results.store import ResultStore
from hlmm_scan.scan.progress import Progress
from hlmm_scan.staging import refuse_link, staged_store, stands
from hlmm_scan.storage import Place

logger = logging.getLogger(__name__)

_READERS = 2
"""Threads that read and check the next rows while others are pooled."""


def pool_cohorts(
    places: Sequence[Place], output: Place, how: Pooling, *, overwrite: bool = False
) -> ResultStore:
    """Pool cohorts into a result store, which stands when it is whole.

    Parameters
    ----------
    places : sequence of Path or ObjectPath
        Result stores or tables, of a cohort each.
    output : Path or ObjectPath
    how : Pooling
    overwrite : bool, default False
        Whether to replace a result store that stands there.

    Returns
    -------
    ResultStore
        Complete.

    Raises
    ------
    InputError
        If a cohort cannot be read or pooled with the others, or the output cannot be written.
    """
    _check_output(output, places, overwrite=overwrite)
    sources = open_cohorts(places, how.phenotype)
    scale = common_scale(sources, same_unit=how.same_unit)
    if not scale:
        logger.warning(
            "no cohort says what its effects on the mean are in: they are taken to be in one unit"
        )
    unsorted: set[int] = set()
    while True:
        try:
            return _pooled(sources, unsorted, output, how, scale, overwrite)
        except UnsortedError as error:
            number = int(error.args[0])
            logger.info("%s: not in order of position, is sorted first", sources[number].where)
            unsorted.add(number)


def _check_output(output: Place, places: Sequence[Place], *, overwrite: bool) -> None:
    """Refuse an output rather now than when all is read."""
    if not stands(output):
        return
    if not overwrite:
        raise InputError(f"{output}: something stands there already (--overwrite replaces it)")
    refuse_link(output)
    if (read_mark(output) or {}).get("kind") != "results":
        raise InputError(f"{output}: holds something else; choose another --output")
    if any(str(output) == str(one) for one in places):
        raise InputError(f"{output}: is one of the cohorts; choose another --output")


def _pooled(
    sources: Sequence[Source],
    unsorted: set[int],
    output: Place,
    how: Pooling,
    scale: str,
    overwrite: bool,
) -> ResultStore:
    chromosomes = Chromosomes(common_autosomes(sources))
    with ExitStack() as stack:
        for source in sources:
            stack.enter_context(source.held())
        unfinished = stack.enter_context(
            staged_store(output, replace=overwrite, held=being_changed)
        )
        reading = stack.enter_context(ThreadPoolExecutor(_READERS))
        streams = [
            stack.enter_context(sorted_rows(source.rows(chromosomes)))
            if k in unsorted
            else _ahead(source.rows(chromosomes), reading)
            for k, source in enumerate(sources)
        ]
        writer = Writer(unfinished, sources, how, scale, chromosomes)
        counts = [source.counts for source in sources]
        with Progress(sum(source.expected for source in sources), "rows") as progress:
            for window in windows(streams, how.matching, counts):
                writer.add(window)
                done = sum(count["rows"] for count in counts)
                progress(done, max(done, progress.total))
        writer.finish()
    return ResultStore.open(output)


def _ahead(rows: Iterator[Rows], reading: Executor) -> Iterator[Rows]:
    """Yield the same, the next ones being read meanwhile."""
    coming = reading.submit(next, rows, None)
    while (here := coming.result()) is not None:
        coming = reading.submit(next, rows, None)
        yield here
