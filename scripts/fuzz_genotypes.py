"""Random changes of genotype files, and what converting them makes of each.

Small filesets of four kinds (.bed, .bgen, .pgen and .vcf, with what belongs to them) are changed
one file at a time: bits flipped, bytes taken out, put in or cut off, lines doubled, swapped or
dropped, cells replaced by what people and programs write. Each is converted in a process that does
many. An answer is right if it is an error of the package in one line, or a dataset: of the same
content as before, or of another for a reason. Where a change says nothing (line ends, a byte-order
mark), the content must be the same.

A native library that a changed file takes down is let do so in a process of its own, as the command
does, and must end in one line there too.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
from commands import stop
from tables import table, write

from hlmm_scan.errors import HlmmScanError
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.dataset import GenotypeDataset, summary
from hlmm_scan.simulate import simulate_cohort

KINDS = {
    "bed": (".bed", ".bim", ".fam"),
    "bgen": (".bgen", ".sample"),
    "pgen": (".pgen", ".pvar", ".psam"),
    "vcf": (".vcf",),
}
TEXT = {".bim", ".fam", ".sample", ".pvar", ".psam", ".vcf"}
CELLS = (
    "", ".", "NA", "nan", "-9", "0", "1.0", "1e400", "-1", "99999999999", "9" * 5000, "1,000",
    "1e+05", "X", "chr1", "#", '"', "\u00e9", "\ufeff", "\u00a0", "\x1b[31m", "a b", "0/2", "0/1/1",
    "./.", "2.5", "0.2,0.3,0.9", "Male", "GT:DS", "PL", "A,C", "<DEL>",
)  # fmt: skip
LONGEST = 20
"""Seconds that one conversion may take; far more than it needs."""

OUTCOMES = ("same", "other content", "refused", "crashed alone", "TRACEBACK", "HANG", "WRONG")


@dataclass(frozen=True)
class Change:
    """One change of one file.

    Attributes
    ----------
    file : str
        Its extension.
    what : str
        For the report.
    data : bytes
        All of the changed file.
    harmless : bool
        Whether it says nothing, so that the content must be the same.
    """

    file: str
    what: str
    data: bytes
    harmless: bool = False


def make_files(folder: Path) -> None:
    """Write one small cohort in all kinds; its chromosome X has males and females."""
    simulate_cohort(
        folder / "cohort", n_samples=24, chromosomes=1, variants_per_chromosome=30,
        n_random_effects=2,
    )  # fmt: skip
    bed = folder / "cohort" / "chr1"
    for extension in KINDS["bed"]:
        shutil.copy(f"{bed}{extension}", folder / f"a{extension}")
    exports = (
        ["--make-pgen"],
        ["--export", "bgen-1.2", "bits=8", "ref-first"],
        ["--export", "vcf", "vcf-dosage=DS-force"],
    )
    for export in exports:
        command = ["plink2", "--bfile", str(folder / "a"), *export, "--out", str(folder / "a")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            stop(f"plink2: {done.stderr.strip() or done.stdout.strip()}")


def changed(rng: random.Random, kind: str, whole: dict[str, bytes]) -> Change:
    """Draw one change of one of a fileset's files."""
    file = rng.choice(KINDS[kind])
    data = whole[file]
    if file in TEXT and rng.random() < 0.75:
        return changed_text(rng, file, data)
    at = rng.randrange(len(data))
    length = rng.choice((1, 2, 8, 64))
    match rng.choice(("flip", "cut", "out", "in", "set")):
        case "flip":
            bit = 1 << rng.randrange(8)
            return Change(file, "bit flipped", data[:at] + bytes([data[at] ^ bit]) + data[at + 1 :])
        case "cut":
            return Change(file, "cut short", data[:at])
        case "out":
            return Change(file, "bytes taken out", data[:at] + data[at + length :])
        case "in":
            return Change(file, "bytes put in", data[:at] + rng.randbytes(length) + data[at:])
        case _:
            value = bytes([rng.choice((0, 0x7F, 0xFF))]) * length
            return Change(file, "bytes overwritten", data[:at] + value + data[at + length :])


def changed_text(rng: random.Random, file: str, data: bytes) -> Change:
    """Draw one change of lines or cells."""
    lines = data.decode().splitlines(keepends=True)
    at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.choice(("cell", "cell", "cell", "double", "swap", "drop", "ends", "mark", "blank")):
        case "cell":
            cells = lines[at].rstrip("\n").split("\t" if "\t" in lines[at] else " ")
            separator = "\t" if "\t" in lines[at] else " "
            cells[rng.randrange(len(cells))] = rng.choice(CELLS)
            lines[at] = separator.join(cells) + "\n"
            what, harmless = "cell replaced", False
        case "double":
            lines.insert(at, lines[at])
            what, harmless = "line doubled", False
        case "swap":
            lines[at], lines[other] = lines[other], lines[at]
            what, harmless = "lines swapped", False
        case "drop":
            del lines[at]
            what, harmless = "line dropped", False
        case "ends":
            lines = [line.replace("\n", "\r\n") for line in lines]
            what, harmless = "line ends of Windows", True
        case "mark":
            lines[0] = "\ufeff" + lines[0]
            what, harmless = "byte-order mark", True
        case _:
            lines.append("\n")
            what, harmless = "blank line at the end", True
    return Change(file, what, "".join(lines).encode(), harmless)


class HangError(BaseException):
    """A conversion took too long."""


def too_long(_number: int, _frame: FrameType | None) -> None:
    """Say so to what is being converted."""
    raise HangError


def content(dataset: GenotypeDataset) -> str:
    """Read all of a dataset, and return what tells it from another."""
    block = dataset.read_block(0, dataset.n_variants)
    table_ = dataset.variants(0, dataset.n_variants)
    assert len(table_) == len(block) == dataset.n_variants
    assert len(dataset.samples) == dataset.n_samples
    assert not np.isnan(dataset.genotype_counts(0, dataset.n_variants)).any()
    assert summary(dataset)
    return dataset.fingerprint


def outcome(folder: Path, kind: str, change: Change, known: str, workers: int) -> tuple[str, str]:
    """Convert a changed fileset; return what came of it, and the words."""
    path = folder / f"a{change.file}"
    before = path.read_bytes()
    path.write_bytes(change.data)
    signal.alarm(LONGEST)
    try:
        out = folder / "out.zarr"
        shutil.rmtree(out, ignore_errors=True)
        found = content(convert([folder / f"a{KINDS[kind][0]}"], out, workers=workers))
    except HlmmScanError as error:
        words = str(error)
        if change.harmless:
            return "WRONG", f"refused: {words}"
        return ("refused", words) if "\n" not in words else ("WRONG", f"several lines: {words}")
    except HangError:
        return "HANG", ""
    except Exception:
        return "TRACEBACK", traceback.format_exc()
    finally:
        signal.alarm(0)
        path.write_bytes(before)
    if found == known:
        return "same", ""
    return ("WRONG", "other content") if change.harmless else ("other content", "")


def serve(folder: Path, kind: str, first: int, last: int, seed: int, workers: int) -> None:
    """Do changes `first` to `last` and write a line for each: the program of a child."""
    signal.signal(signal.SIGALRM, too_long)
    whole = {e: (folder / f"a{e}").read_bytes() for e in KINDS[kind]}
    known = content(convert([folder / f"a{KINDS[kind][0]}"], folder / "known.zarr", overwrite=True))
    for number in range(first, last):
        change = changed(random.Random(f"{seed} {kind} {number}"), kind, whole)
        print(json.dumps({"number": number, "file": change.file, "what": change.what}), flush=True)
        said, words = outcome(folder, kind, change, known, workers)
        print(json.dumps({"outcome": said, "words": words}), flush=True)


def child(folder: Path, kind: str, first: int, last: int, seed: int, workers: int) -> list[dict]:
    """Run a child and return what it wrote; its last line may lack an outcome."""
    command = [sys.executable, __file__, "--serve", str(folder), kind, str(first), str(last)]
    command += ["--seed", str(seed), "--workers", str(workers)]
    limit = 120 + 2 * LONGEST * (last - first)
    try:
        done = subprocess.run(command, capture_output=True, check=False, timeout=limit)
        output, words, code = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as error:
        output, words, code = error.stdout or b"", b"", None
    lines = output.decode(errors="replace").splitlines()  # libraries print what they read
    found: list[dict] = []
    for line in lines:
        if not line.startswith('{"'):
            continue
        record = json.loads(line)
        if "number" in record:
            found.append(record)
        else:
            found[-1] |= record
    if found and "outcome" not in found[-1]:
        found[-1]["outcome"] = "HANG" if code is None else "crashed alone"
    elif len(found) < last - first:
        stop(f"a child ended with {code} before its work: {words[-500:].decode(errors='replace')}")
    return found


def storm(folder: Path, kind: str, mutations: int, seed: int) -> list[dict]:
    """Do all changes of one kind, starting another child where one is taken down."""
    own = folder / kind
    own.mkdir()
    for extension in KINDS[kind]:
        shutil.copy(folder / f"a{extension}", own)
    originals = {e: (own / f"a{e}").read_bytes() for e in KINDS[kind]}
    records: list[dict] = []
    at = 0
    while at < mutations:
        found = child(own, kind, at, mutations, seed, workers=0)
        at += len(found)
        last = found[-1]
        if last["outcome"] == "crashed alone":  # as the command does it, in a process of its own
            for extension, data in originals.items():
                (own / f"a{extension}").write_bytes(data)
            (again,) = child(own, kind, at - 1, at, seed, workers=1)
            if again["outcome"] != "refused":
                last["outcome"] = "TRACEBACK"
                last["words"] = f"crash: {again['outcome']} {again.get('words', '')}"
        for extension, data in originals.items():
            (own / f"a{extension}").write_bytes(data)
        records += found
    return [{"kind": kind, **record} for record in records]


def main() -> None:
    """Run, report, and exit."""
    parser = argparse.ArgumentParser(description=__doc__, add_help=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--mutations", type=int, help="in all; default 2,000, quickly 60")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("-o", "--output", type=Path, default=Path("build"))
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--workers", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        folder, kind, first, last = given.serve
        serve(Path(folder), kind, int(first), int(last), given.seed, given.workers)
        return
    if shutil.which("plink2") is None:
        stop("plink2 is not installed")
    mutations = given.mutations or (60 if given.quick else 2000)
    records: list[dict] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_files(folder)
        for kind in KINDS:
            print(f"{kind} …", flush=True)
            records += storm(folder, kind, -(-mutations // len(KINDS)), given.seed)
    counts = {kind: Counter(r["outcome"] for r in records if r["kind"] == kind) for kind in KINDS}
    bad = [r for r in records if r["outcome"].isupper()]
    rows = [[kind, *(counts[kind][name] for name in OUTCOMES)] for kind in KINDS]
    text = f"{len(records):,} changes\n\n{table(['', *OUTCOMES], rows)}\n"
    data = {"counts": counts, "bad": bad, "seed": given.seed}
    write(given.output, "fuzz_genotypes", text, data)
    for record in bad[:20]:
        print(json.dumps(record))
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
