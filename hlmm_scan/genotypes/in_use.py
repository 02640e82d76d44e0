"""Genotype datasets while they are read: nobody replaces them meanwhile, or it is found out.

Where the file system knows locks, readers share one and who replaces a dataset wants it alone.
Nothing like it is on object stores, so every task looks before and after it reads whether what it
opened still stands there (:class:`Opened`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from hlmm_scan.errors import InputError, StoreHeldError
from hlmm_scan.genotypes.joined import Genotypes, JoinedGenotypes
from hlmm_scan.genotypes.open import open_genotypes
from hlmm_scan.storage import Place, place
from hlmm_scan.storage.locks import identity, locked, root_file


@contextmanager
def being_read(paths: Iterable[Place]) -> Iterator[None]:
    """Read genotype datasets within this block, while nobody replaces them.

    Parameters
    ----------
    paths : iterable of Path or ObjectPath
        What is no dataset is passed over: whoever opens it says so.

    Raises
    ------
    StoreHeldError
        If one is being replaced.
    """
    with ExitStack() as held:
        for path in paths:
            if isinstance(path, Path):
                try:
                    with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
                        held.enter_context(locked(root_file(path), alone=False))
                except BlockingIOError:
                    raise StoreHeldError(
                        f"{path}: another command replaces this dataset just now; start again when "
                        "it is done"
                    ) from None
        yield


@contextmanager
def being_replaced(path: Path) -> Iterator[None]:
    """Replace a genotype dataset within this block, while nobody reads it.

    Raises
    ------
    StoreHeldError
        If anybody does, on a file system that knows locks.
    """
    with ExitStack() as held:
        try:
            with suppress(FileNotFoundError):
                held.enter_context(locked(root_file(path), alone=True))
        except BlockingIOError:
            raise StoreHeldError(
                f"{path}: in use, a scan or another command reads this dataset; wait for it or "
                "stop it, then give the same command again"
            ) from None
        yield


class Opened:
    """Genotypes as a scan's tasks keep them open, and whether they still are what was opened.

    Parameters
    ----------
    paths : sequence of str
    fingerprint : str
        What they must have.

    Attributes
    ----------
    genotypes : GenotypeDataset or JoinedGenotypes
        All their variants.

    Raises
    ------
    InputError
        If they cannot be opened, or are not those.
    """

    def __init__(self, paths: Sequence[str], fingerprint: str) -> None:
        self._places = [place(path) for path in paths]
        self._identities = self._look()  # before they are opened, or a change would go unseen
        self.genotypes: Genotypes = open_genotypes(self._places)
        if self.genotypes.fingerprint != fingerprint:
            raise InputError(
                f"{', '.join(paths)}: the genotype dataset changed since the scan was prepared; "
                "restore it, or start anew with --overwrite"
            )

    def still_there(self) -> bool:
        """Return whether all that was read since this was opened is of these datasets.

        False where the same content was put there in other chunks: then it is to be opened anew.

        Raises
        ------
        InputError
            If there are other genotypes now.
        OSError
            If there are none.
        """
        if self._look() == self._identities:
            return True
        # Some file systems number their files anew at times.
        now = Opened([str(path) for path in self._places], self.genotypes.fingerprint)
        if _layout(now.genotypes) != _layout(self.genotypes):
            return False
        self._identities = now._identities
        return True

    def _look(self) -> list[Any]:
        return [identity(path) for path in self._places]


def _layout(genotypes: Genotypes) -> list[tuple[int, int, float]]:
    parts = genotypes.parts if isinstance(genotypes, JoinedGenotypes) else (genotypes,)
    return [(part.n_variants, part.chunk_variants, part.unit) for part in parts]
