"""Parts of a conversion in processes of their own, which a damaged file may take down.

Each is a fresh interpreter that this module starts as a program and speaks to through pipes: it
needs nothing of the caller's main module, and its end, whatever the reason, is an end of file.
"""

from __future__ import annotations

import ctypes
import io
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO, Any

from hlmm_scan.children import environment
from hlmm_scan.errors import HlmmScanError, InfrastructureError, InputError
from hlmm_scan.genotypes.conversion.parts import Part, PartRecord, convert_part

_OF_DAMAGED_FILES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
_ONE_THREAD = dict.fromkeys(
    (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "ZARR_THREADING__MAX_WORKERS",
    ),
    "1",
)
_LENGTH = 8
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_TOLD = 300  # characters of a library's last words


class ReaderProcesses:
    """Parts in a number of processes, each one part at a time.

    Parameters
    ----------
    workers : int
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, parts: Iterable[Part]) -> Iterator[PartRecord]:
        """Yield records as parts are done.

        Raises
        ------
        InputError
            If a part says so, or takes its process down as damaged files do.
        InfrastructureError
            If a process was ended otherwise.
        """
        remaining, drawing = iter(parts), threading.Lock()
        told: queue.SimpleQueue[PartRecord | BaseException | None] = queue.SimpleQueue()
        stop = threading.Event()
        children: list[_Child] = []

        def serve() -> None:
            child = None
            try:
                while not stop.is_set():
                    with drawing:
                        part = next(remaining, None)
                    if part is None:
                        return
                    if child is None:
                        child = _Child()
                        children.append(child)
                    told.put(child.convert(part))
            except BaseException as error:
                told.put(error)
            finally:
                if child is not None:
                    child.end()
                told.put(None)

        # A child is made to die with the thread that started it, so the threads stay to the end.
        threads = [threading.Thread(target=serve, daemon=True) for _ in range(self.workers)]
        for thread in threads:
            thread.start()
        try:
            running = len(threads)
            while running:
                said = told.get()
                if said is None:
                    running -= 1
                elif isinstance(said, BaseException):
                    raise said
                else:
                    yield said
        finally:
            stop.set()
            for child in children:
                child.end()
            for thread in threads:
                thread.join()


class _Child:
    """One process and the pipes to it."""

    def __init__(self) -> None:
        self._last_words: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed by end)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._last_words,
            env=environment(_ONE_THREAD),
            # Ctrl-C is for the parent to act on.
            start_new_session=True,
        )

    def convert(self, part: Part) -> PartRecord:
        """Have a part done; raises what it raises."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            _send(self._process.stdin, part)
        answer = _receive(self._process.stdout)
        if isinstance(answer, PartRecord):
            return answer
        if isinstance(answer, BaseException):
            raise answer
        raise self._death(part)

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._last_words):
            if pipe is not None:
                with suppress(OSError, ValueError):  # another thread closed it meanwhile
                    pipe.close()

    def _death(self, part: Part) -> HlmmScanError:
        code = self._process.wait()
        self._last_words.seek(0)
        lines = self._last_words.read().decode(errors="replace").strip().splitlines()
        last = f" ({lines[-1][:_TOLD]})" if lines else ""
        if code < 0 and -code in _OF_DAMAGED_FILES:
            return InputError(
                f"{part}: the reader crashed with {signal.Signals(-code).name}{last}; the file is "
                "damaged"
            )
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return InfrastructureError(f"{part}: the process reading them {how}{last}")


def _send(pipe: IO[bytes], what: Any) -> None:
    data = pickle.dumps(what, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.write(len(data).to_bytes(_LENGTH, "little") + data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    """Return what the other side sent; None where it is gone."""
    with suppress(ValueError):  # closed
        head = pipe.read(_LENGTH)
        if len(head) == _LENGTH:
            data = pipe.read(int.from_bytes(head, "little"))
            if len(data) == int.from_bytes(head, "little"):
                return pickle.loads(data)
    return None


def _serve(parent: int) -> None:
    """Do parts until there are no more: the program of a child."""
    if sys.platform == "linux":
        # Else it would go on writing where the next conversion writes.
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            return
    # What libraries print must not come between our words.
    output = io.FileIO(os.dup(1), "w")
    os.dup2(2, 1)
    with os.fdopen(os.dup(0), "rb") as asked, io.BufferedWriter(output) as answers:
        while (part := _receive(asked)) is not None:
            try:
                answer: PartRecord | Exception = convert_part(part)
            except (HlmmScanError, OSError) as error:
                answer = error
            except Exception as error:
                answer = RuntimeError(f"{part}: {type(error).__name__}: {error}")
            _send(answers, answer)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
