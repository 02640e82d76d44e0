"""Texts that people write, spoilt at random: a right answer, or an error of ours in one line.

    scripts/fuzz_texts [--quick] [--count N] [--seed S]

Configurations, descriptions of clusters, regions, addresses, lists of ids, people and predictions:
everything that is no table of numbers (scripts/fuzz_tables) and no genotype file
(scripts/fuzz_genotypes). They go through the functions that the commands call. What fails is kept
in a folder that the last line names.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import logging
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from hlmm_scan.analysis.check import read_variants
from hlmm_scan.analysis.regions import parse_region
from hlmm_scan.cohort.offsets import load_offsets
from hlmm_scan.cohort.people import read_people
from hlmm_scan.config import compose, load_config, to_yaml
from hlmm_scan.errors import HlmmScanError
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.selection import IdList, Region
from hlmm_scan.genotypes.variant_names import VariantName, find_variants, read_variant_names
from hlmm_scan.genotypes.variants import VariantTable
from hlmm_scan.results.export_gwas_ssf import read_metadata
from hlmm_scan.scan.cluster_file import read_cluster_file
from hlmm_scan.scan.clusters import RunningScheduler
from hlmm_scan.storage import place

SECONDS = 20
"""That one text may take, on a busy machine."""

PEOPLE = [f"p{k}" for k in range(20)]
SAMPLES = SampleIds(np.array(PEOPLE, object), np.array(PEOPLE, object))
NAMELESS = VariantTable(*(np.array([cell], object) for cell in ("1", 1, "", "A", "C")))

CONFIG = """genotypes: [a.zarr, s3://bucket/b.zarr]
phenotypes: p.tsv
output: out.zarr
phenotype: [height, "2", 1.10]
region: ["6:25,000,000-34000000", 7]
min_maf: 0.01
min_mac: 20
hwe: 1e-6
workers: 3
memory_limit: 16GiB
loco: true
random_effects: ids.txt
"""
CLUSTER = """kind: slurm
maximum: 8
minimum: 1
walltime: "04:00:00"
memory: 4GiB
directives: ["--qos=low"]
tls: true
"""
METADATA = """genome_assembly: GRCh38
samples:
  ancestry: [European]
"""
PIECES: list[bytes] = [
    *(b"\0", b"\x1b[2J", b"\xff\xfe", b"\xef\xbb\xbf", b"\xe9", b"\r", b"\r\n", b"\t", b"\n\n"),
    *(b":", b"- ", b"[", b"]", b"{", b"}", b"&a ", b"*a", b"<<: *a", b"? ", b"|", b">", b"%", b"@"),
    *(b"2020-13-45", b"2020-01-31", b"6:25", b"007", b"0x1F", b"1_000", b".inf", b".nan", b"-1"),
    *(b"9" * 5000, b"1e999", b"1" * 40, b"x" * 200_000, b" " * 65_536, b"[" * 20_000, b"- " * 500),
    *(b"!!python/object:os.system", b"!!binary x", b"!!set {a}", b"!!timestamp x", b"~", b"null"),
    *(b"'", b'"', b"#", b",", b"tcp://", b"s3://[::1", b"://", b"../..", b"~nobody-such/x"),
    *("λ".encode(), "\u202e".encode(), "\ud800".encode("utf-8", "surrogatepass")),
    b"a: &a [x, x]\nb: &b [*a, *a, *a, *a]\nc: &c [*b, *b, *b, *b]\n",
    b"min_maf: 0.1\nmin_maf: 0.2\n",
]


def spoilt(text: bytes, chance: random.Random) -> bytes:
    """Return a text with some faults; now and then with none, or packed."""
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 5))):
        at = chance.randrange(len(text) + 1)
        to = min(len(text), at + chance.choice((0, 1, 1, 5, 40)))
        kind = chance.random()
        if kind < 0.6:
            text = text[:at] + chance.choice(PIECES) + text[to:]
        elif kind < 0.75:
            text = text[:at] + text[to:]
        elif kind < 0.9:
            text = text[:at] + bytes(chance.randrange(256) for _ in range(3)) + text[to:]
        else:
            text = text[:at] + text[:to] + text[at:]
    packing = chance.random()
    if packing < 0.04:
        text = gzip.compress(text)
        text = text[: chance.randrange(len(text))] if packing < 0.02 else text
    elif packing < 0.042:
        text = gzip.compress(text + b"\0" * (80 << 20), 1)
    return text


def right(true: object) -> None:
    """Fail where an answer is wrong."""
    if not true:
        raise AssertionError("a wrong answer")


# Each takes the path of a spoilt text, and sees that what is read is right ---------------------


def config(path: Path) -> None:
    read = compose(load_config(path), {})
    again = path.with_suffix(".again")
    again.write_text(to_yaml(read))
    right(compose(load_config(again), {}) == read)


def cluster(path: Path) -> None:
    described = read_cluster_file(path)
    right(0 <= described.minimum <= described.maximum)


def metadata(path: Path) -> None:
    right(read_metadata(path)["genome_assembly"])


def ids(path: Path) -> None:
    found, content = {name.variant_id for name in IdList.read(path).names}, path.read_bytes()
    words = (gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode().split()
    right(found == set(words) - {"\ufeff"} or words[0].startswith("\ufeff"))


def variants(path: Path) -> None:
    found = read_variants(path)
    for names in found.values() if isinstance(found, dict) else [found]:
        name_something(names)


def condition(path: Path) -> None:
    name_something(read_variant_names(path))


def name_something(names: list[VariantName]) -> None:
    """See that a line without a name is no variant's, be that one nameless, too."""
    nameless = [name for name in names if not (name.variant_id or name.place)]
    find_variants(nameless, 1, lambda *_: NAMELESS.variant_id, lambda *_: NAMELESS, "variants")
    right(not nameless)


def people(path: Path) -> None:
    found, _ = read_people(path)
    right(all(found.individual_id))


def predictions(path: Path) -> None:
    source = load_offsets(path, ["height"], SAMPLES, autosomes=22)
    values = source.read("height")
    right(not any(np.isinf(row).any() for row in values.rows.values()))


def loco(path: Path) -> None:
    named = path.with_suffix(".list")
    named.write_text(f"height {path.name}\n")
    predictions(named)


def words_of(read: Callable[[str], object]) -> Callable[[Path], None]:
    """Give a function of an argument the text of a file, as a shell would: without NUL."""

    def one(path: Path) -> None:
        text = path.read_bytes().replace(b"\0", b"").decode(errors="surrogateescape")
        read(text)

    return one


def region(text: str) -> None:
    parsed = parse_region(text)
    right(parsed.start <= parsed.stop)
    right(
        Region.parse(str(parsed)) == parsed or ":" in parsed.contig or parsed.contig.strip() == ""
    )


def loco_text() -> bytes:
    header = " ".join(["FID_IID", *(f"{one}_{one}" for one in PEOPLE)])
    rows = [" ".join([str(c), *(f"{0.1 * k:.3f}" for k in range(len(PEOPLE)))]) for c in (1, 2, 23)]
    return "\n".join([header, *rows, ""]).encode()


# A region.s text, spoilt
KINDS: dict[str, tuple[Callable[[Path], None], bytes]] = {
    "run.yaml": (config, CONFIG.encode()),
    "cluster.yaml": (cluster, CLUSTER.encode()),
    "metadata.yaml": (metadata, b"genome_assembly: GRCh38\n"),
    "ids.txt": (ids, b"rs1\nrs2\nrs3\n"),
    "variants.txt": (variants, b"variant_id\tp\nrs1\t3\nrs2\t4\n"),
    "condition.txt": (condition, b"rs1\nrs2\n"),
    "people.txt": (people, b"FID IID\nf1 p1\nf2 p2\n"),
    "step1_pred.list": (predictions, b"height step1_1.loco\nweight step1_2.loco\n"),
    "step1_9.loco": (loco, loco_text()),
    "region": (words_of(region), b"6:25,000,000-34000000"),
    "scheduler": (words_of(RunningScheduler), b"tcp://127.0.0.1:8786"),
    "address": (words_of(place), b"s3://bucket/key/store.zarr"),
}


def tried(read: Callable[[Path], None], path: Path) -> str:
    """Return what became of a text: good, refused, or what is wrong with our answer."""
    signal.alarm(SECONDS)
    try:
        read(path)
    except HlmmScanError as error:
        text = str(error)
        if "\n" in text:
            return f"an error of more than one line: {text[:300]!r}"
        return "refused" if len(text) <= 4000 else f"an error of {len(text):,} characters"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {Path(last.filename).name}:{last.lineno}: {error!s:.200}"
    finally:
        signal.alarm(0)
    return "good"


@contextlib.contextmanager
def alarms() -> Iterator[None]:
    """Make an error of a text that takes too long."""

    def late(*_: object) -> None:
        raise TimeoutError(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="400 texts")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    count = 400 if options.quick else options.count
    logging.getLogger("hlmm_scan").setLevel(logging.ERROR)
    chance = random.Random(options.seed)
    folder = Path(tempfile.mkdtemp(prefix="hlmm-scan-fuzz-"))
    ends: Counter[str] = Counter()
    faults = []
    started = time.monotonic()
    with alarms():
        for number in range(count):
            name = list(KINDS)[number % len(KINDS)]
            read, text = KINDS[name]
            here = folder / str(number)
            here.mkdir()
            for k in (1, 2):
                (here / f"step1_{k}.loco").write_bytes(loco_text())
            (here / name).write_bytes(spoilt(text, chance))
            end = tried(read, here / name)
            ends[end if end in ("good", "refused") else "faults"] += 1
            if end in ("good", "refused"):
                for file in here.iterdir():
                    file.unlink()
                here.rmdir()
            else:
                faults.append(f"{here / name}: {end}")
    for fault in faults[:40]:
        print(fault)
    print(
        f"fuzz of texts: {count:,} in {time.monotonic() - started:.0f} s, seed {options.seed}: "
        f"{ends['good']:,} read, {ends['refused']:,} refused in one line, {ends['faults']} faults"
        + (f", kept in {folder}" if faults else "")
    )
    if not faults:
        folder.rmdir()
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
