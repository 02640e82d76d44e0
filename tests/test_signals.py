"""Signals: the first ends in good order, the second at once, and none goes unheard."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time

import pytest

from hlmm_scan import signals

ENDS = """
import hashlib, sys, time
from hlmm_scan import signals
signals.GRACE_SECONDS = {grace}
try:
    with signals.heard():
        print("ready", flush=True)
        {work}
except KeyboardInterrupt:
    print("interrupted")
    sys.exit(130)
except signals.Terminated:
    print("terminated")
    sys.exit(143)
"""


def run(
    work: str,
    *numbers: signal.Signals,
    apart: float = 0.8,
    grace: float = 8.0,
    script: str = ENDS,
) -> tuple[int, list[str], str, float]:
    """Send signals to a process that works; return its code, what it said, and its last seconds."""
    script = script.format(work=work, grace=grace)
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)  # at its work by then
    started = time.monotonic()
    for place, number in enumerate(numbers):
        time.sleep(apart if place else 0.0)
        process.send_signal(number)
    try:
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    return process.returncode, out.splitlines(), err, time.monotonic() - started


SLEEP = "time.sleep(60)"
STUBBORN = "\n".join(
    [
        "try: time.sleep(60)",
        "        finally: print('tidying', flush=True); time.sleep(60)",
    ]
)
BUSY = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"  # as a kernel: one instruction, for long


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_one_signal_ends_in_good_order(number, code, word):
    found, out, err, seconds = run(SLEEP, number)
    assert (found, out, err) == (code, [word], "")
    assert seconds < 5


def test_a_second_signal_ends_at_once_with_its_own_code():
    code, out, err, seconds = run(STUBBORN, signal.SIGINT, signal.SIGTERM)
    assert (code, out) == (143, ["tidying"])
    assert err == "hlmm-scan: stopped at once\n"
    assert seconds < 5


def test_the_same_signal_twice_in_an_instant_counts_once():
    code, out, err, _ = run("time.sleep(60)", signal.SIGTERM, signal.SIGTERM, apart=0.0)
    assert (code, out, err) == (143, ["terminated"], "")


AT_THE_VERY_END = "\n".join(
    [
        "import os, signal",
        "class Last:",
        "    def __del__(self, kill=os.kill, me=os.getpid(), number=signal.SIGTERM):",
        "        kill(me, number)",
        "last = Last()",
    ]
)


def test_one_that_python_would_die_of_as_it_exits_changes_nothing():
    """Modules are taken down after Python has put back the handlers that were before it."""
    code, out, err, _ = run(SLEEP, signal.SIGTERM, script=AT_THE_VERY_END + ENDS)
    assert (code, out, err) == (143, ["terminated"], "")


def test_what_does_not_end_in_time_is_ended():
    code, out, err, seconds = run(STUBBORN, signal.SIGTERM, grace=1.0)
    assert (code, out) == (143, ["tidying"])
    assert "stopped at once" in err
    assert 0.9 < seconds < 6


def test_a_computation_that_python_cannot_interrupt_is_ended():
    code, out, err, seconds = run(BUSY, signal.SIGINT, grace=1.0)
    assert (code, out) == (130, [])
    assert "stopped at once" in err
    assert 0.9 < seconds < 6


IN_A_FINALISER = "\n        ".join(
    [
        "class Finalised:",
        "    def __del__(self): time.sleep(0.6)",
        "Finalised()",
        "time.sleep(60)",
    ]
)


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_one_that_arrives_in_a_finaliser_is_heard_after_it(number, code, word):
    found, out, err, seconds = run(IN_A_FINALISER, number)
    assert (found, out, err) == (code, [word], "")
    assert seconds < 5


def test_afterwards_all_is_as_before():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with signals.heard():
        assert "signals" in {thread.name for thread in threading.enumerate()}
        assert signal.getsignal(signal.SIGTERM) not in handlers
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    end = time.monotonic() + 5
    while "signals" in {thread.name for thread in threading.enumerate()}:
        assert time.monotonic() < end
        time.sleep(0.01)
