"""However a command ends: one line that says why, an exit code, and nothing a terminal obeys."""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest

from hlmm_scan import cli, signals, surroundings
from hlmm_scan.errors import InputError
from hlmm_scan.shown import listed_names, one_line, printable, quoted

ROOT = Path(__file__).resolve().parent.parent
ESCAPE = "\x1b[2J\x07rs1\x9b"


@pytest.fixture
def command(monkeypatch):
    """Make a command that raises an error, or prints a text."""

    def make(what: BaseException | str):
        @click.command()
        def it() -> None:
            if isinstance(what, str):
                click.echo(what)
            else:
                raise what

        monkeypatch.setitem(cli.cli.commands, "it", it)

    return make


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyError("x"), 2, "unexpected error, KeyError: 'x'; -v or --log-file FILE shows"),
        (RecursionError(), 2, "unexpected error, RecursionError; -v or"),
        (MemoryError(), 2, "there is not enough memory"),
        (OSError(5, "Input/output error"), 4, "Input/output error"),
        (OSError(24, "Too many open files", "/x"), 2, "/x: Too many open files"),
        (
            ValueError("embedded\nnull\x1b byte"),
            2,
            r"unexpected error, ValueError: embedded null\x1b byte; -v",
        ),
        (InputError(f"no such id '{ESCAPE}'"), 2, r"no such id '\x1b[2J\x07rs1\x9b'"),
        (InputError("x" * 5000), 2, "x" * 2000 + "…"),
    ],
)
def test_every_error_ends_in_one_line_and_its_traceback_goes_to_the_file(
    command, capsys, tmp_path, error, code, words
):
    command(error)
    log = tmp_path / "log"
    assert cli.main(["--log-file", str(log), "it"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"hlmm-scan: {words}")
    assert ("Traceback" in log.read_text()) == (not isinstance(error, InputError))
    assert cli.main(["-v", "it"]) == code
    assert ("Traceback" in capsys.readouterr().err) == (not isinstance(error, InputError))


def test_the_json_log_has_the_traceback_too(command, capsys, tmp_path):
    command(KeyError("x"))
    assert cli.main(["--log-json", str(tmp_path / "log"), "it"]) == 2
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert "Traceback" in json.loads(line)["exception"]


def test_what_is_printed_and_logged_makes_a_terminal_do_nothing(command, capsys, tmp_path):
    command(f"{ESCAPE} λ\tx\ny")
    log = tmp_path / "log"
    assert cli.main(["--log-file", str(log), "it"]) == 0
    logging.getLogger("hlmm_scan").warning("%s", ESCAPE)
    out, err = capsys.readouterr()
    assert out == "\\x07rs1\\x9b λ\tx\ny\n"  # click itself drops colours where no terminal is
    assert err == "\\x1b[2J\\x07rs1\\x9b\n"
    assert "\x1b" not in log.read_text()


def test_text_as_it_may_be_shown():
    assert printable("plain λ") == "plain λ"
    assert printable("a\rb\u202ec\x00") == "a\\rb\\u202ec\\x00"
    assert one_line("a\nb\tc") == "a b c"
    assert quoted("x" * 1000) == "'" + "x" * 79 + "…"
    assert quoted(10**5000).startswith("a int too long")
    assert listed_names(["a", "b"]) == "a, b"
    assert listed_names([f"t{k}" for k in range(3000)]).endswith("t7 and 2,992 more")


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("latin-1", b"\\u03bb \xe9 \\udcff"),
        ("ascii", b"\xce\xbb \xc3\xa9 ?"),  # no terminal is: taken for one of UTF-8
        ("utf-8", b"\xce\xbb \xc3\xa9 \\udcff"),
    ],
)
def test_a_terminal_that_cannot_show_a_character_gets_its_number(encoding, shown):
    script = (
        "import click, sys; from hlmm_scan import cli\n"
        "@click.command()\ndef it(): click.echo('\\u03bb \\u00e9 \\udcff')\n"
        "cli.cli.add_command(it); sys.exit(cli.main(['it']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, shown, b"")


def test_a_command_goes_on_only_where_it_keeps_what_is_done(command, capsys):
    command(KeyboardInterrupt())
    assert cli.main(["it"]) == 130
    assert capsys.readouterr().err.strip() == "hlmm-scan: interrupted"

    class Interrupted(BaseException):
        pass

    with pytest.raises(Interrupted), signals.work_kept():
        raise Interrupted
    assert signals.work_is_kept()
    with signals.work_kept():
        pass
    assert not signals.work_is_kept()


# The shell ----------------------------------------------------------------------------------


def test_a_shell_that_limits_memory_is_told_at_once():
    script = 'ulimit -v 1000000; exec "$0" -m hlmm_scan status nowhere'
    done = subprocess.run(
        ["sh", "-c", script, sys.executable],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("hlmm-scan: this shell limits a process to 977 MiB of virtual memory")
    surroundings._check_addresses(resource.RLIM_INFINITY, 64)
    surroundings._check_addresses(64 << 30, 64)
    with pytest.raises(InputError, match="limits a process to 8,192 MiB"):
        surroundings._check_addresses(8 << 30, 64)


def test_as_many_descriptors_as_may_be_had():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, before[1]), before[1]))
        surroundings._raise_descriptors()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_signals_are_heard_with_more_than_a_thousand_descriptors():
    script = (
        "import os, resource, signal, time; from hlmm_scan import signals\n"
        "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
        "assert hard > 1200\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
        "held = [os.open('/dev/null', os.O_RDONLY) for _ in range(1100)]\n"
        "try:\n"
        "    with signals.heard():\n"
        "        os.kill(os.getpid(), signal.SIGTERM); time.sleep(30)\n"
        "except signals.Terminated: print('heard')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=300
    )
    assert (done.stdout, done.stderr) == ("heard\n", "")


def test_kernels_are_kept_in_a_folder_of_our_own_where_no_other_can_be_written(
    tmp_path, monkeypatch, caplog
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    surroundings._find_cache()
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "cache")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file" / "cache"))
    surroundings._find_cache()
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    assert folder.stat().st_mode & 0o777 == 0o700
    assert "they are compiled anew" in caplog.text


@pytest.mark.parametrize("endpoint", ["not a url", "http://", "::::", "ftp://x", "http://[::1"])
def test_an_endpoint_that_is_no_address_is_told(endpoint, monkeypatch, capsys):
    pytest.importorskip("obstore")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert cli.main(["status", f"s3://bucket/{endpoint.count(':')}.zarr"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"hlmm-scan: AWS_ENDPOINT_URL is '{endpoint}', no address as https://host:9000"
