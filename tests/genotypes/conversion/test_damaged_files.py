"""Damaged and wrong files: one line that says which and where, never a crash or fewer variants."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from container_files import plink2, write_containers

from hlmm_scan.errors import InfrastructureError, InputError
from hlmm_scan.genotypes.conversion import processes, writer
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.conversion.parts import Part, Piece
from hlmm_scan.genotypes.conversion.processes import ReaderProcesses

pytest.importorskip("bgen")
pytest.importorskip("pgenlib")
pytest.importorskip("cyvcf2")

CUTS, FLIPS = 50, 15

# Run in a process of its own: what native code does with damage must not end the tests.
DAMAGE = """
import json, random, sys
from pathlib import Path
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion.convert import convert

folder, files, cuts, flips = Path(sys.argv[1]), json.loads(sys.argv[2]), *map(int, sys.argv[3:])
for kind, (main, damaged) in files.items():
    data, rng = (folder / damaged).read_bytes(), random.Random(kind)
    whole = convert([folder / main], folder / "whole.zarr", workers=0, overwrite=True)
    for case in range(cuts + flips):
        bad = bytearray(data)
        if case < cuts:
            del bad[rng.randrange(len(data)):]
        else:
            bad[rng.randrange(min(len(data), 300))] ^= 1 << rng.randrange(8)
        (folder / damaged).write_bytes(bad)
        try:
            made = convert([folder / main], folder / "out.zarr", workers=0, overwrite=True)
            said = [made.n_variants - whole.n_variants, made.n_samples - whole.n_samples]
        except InputError as error:
            said = str(error)
        print(json.dumps([kind, case, len(bad), said]), flush=True)
    (folder / damaged).write_bytes(data)
"""

FILES = {
    "bed": ("bed.bed", "bed.bed"),
    "bgen": ("bgen8.bgen", "bgen8.bgen"),
    "bgen of dosages": ("dosages.bgen", "dosages.bgen"),
    "pgen": ("pgen.pgen", "pgen.pgen"),
    "pgen of dosages": ("dosages.pgen", "dosages.pgen"),
    "pvar": ("pgen.pgen", "pgen.pvar"),
    "pvar.zst": ("packed.pgen", "packed.pvar.zst"),
    "vcf": ("plain.vcf", "plain.vcf"),
    "gzip": ("gzip.vcf.gz", "gzip.vcf.gz"),
    "bgzf": ("bgzf.vcf.gz", "bgzf.vcf.gz"),
    "bcf": ("bcf.bcf", "bcf.bcf"),
}


@pytest.fixture(scope="module")
def containers(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    plink2("--dummy", 37, 90, 0.03, "acgt", "--seed", 2, "--make-bed", "--out", folder / "bed")
    write_containers(folder / "bed", folder, vcf_zarr=False)
    plink2("--dummy", 37, 90, 0.03, "acgt", "dosage-freq=0.5", "--seed", 2, "--make-pgen", "--out",
           folder / "dosages")  # fmt: skip
    plink2("--pfile", folder / "dosages", "--export", "bgen-1.3", "bits=8", "ref-first", "--out",
           folder / "dosages")  # fmt: skip
    return folder


def copied(containers: Path, folder: Path) -> Path:
    for file in containers.iterdir():
        if file.is_file():
            shutil.copy(file, folder)
    return folder


@pytest.fixture(scope="module")
def outcomes(containers, tmp_path_factory) -> list[list]:
    """Return kind, number, size and what was said of every damaged file."""
    folder = copied(containers, tmp_path_factory.mktemp("damaged"))
    command = [sys.executable, "-c", DAMAGE, folder, json.dumps(FILES), str(CUTS), str(FLIPS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, (done.stdout[-300:], done.stderr[-2000:])
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("kind", FILES)
def test_cut_short(outcomes, kind):
    cases = [(size, said) for of, case, size, said in outcomes if of == kind and case < CUTS]
    assert len(cases) == CUTS
    main, damaged = FILES[kind]
    for size, said in cases:
        assert isinstance(said, str), (size, said)
        assert damaged in said or main in said, (size, said)
        assert "\n" not in said


@pytest.mark.parametrize("kind", FILES)
def test_flipped_bits_in_headers(outcomes, kind):
    """What no checksum covers may change, but nothing is lost and nothing crashes."""
    cases = [said for of, case, _, said in outcomes if of == kind and case >= CUTS]
    assert len(cases) == FLIPS
    for said in cases:
        assert said == [0, 0] or (isinstance(said, str) and "\n" not in said), said


def test_wrong_counts_and_other_cohorts(containers, tmp_path):
    folder = copied(containers, tmp_path)

    def refused(name: str, words: str) -> None:
        with pytest.raises(InputError, match=words):
            convert([folder / name], folder / "x.zarr", workers=0)

    def edit(name: str, at: int, new: bytes) -> None:
        data = bytearray((folder / name).read_bytes())
        data[at : at + len(new)] = new
        (folder / name).write_bytes(data)

    edit("bgen8.bgen", 8, (91).to_bytes(4, "little"))
    refused("bgen8.bgen", r"bgen8\.bgen: ends within variant 91 \(at byte")
    edit("bgen8.bgen", 8, (89).to_bytes(4, "little"))
    refused("bgen8.bgen", r"bytes after the last of the 89 variants of its header")
    edit("pgen.pgen", 3, (91).to_bytes(4, "little"))
    refused("pgen.pgen", r"pgen\.pgen: \d+ bytes where 91 variants of 37 people take \d+")
    edit("packed.pgen", 7, (36).to_bytes(4, "little"))
    refused("packed.pgen", r"packed\.pgen: 36 people where .*packed\.psam has 37")

    rows = (folder / "dosages.sample").read_text().splitlines()
    (folder / "dosages.sample").write_text("\n".join(rows[:-1]))
    refused("dosages.bgen", r"dosages\.sample: 36 people where .*dosages\.bgen has 37; is it the")
    (folder / "dosages.sample").write_text("\n".join([*rows[:5], "0 other 0 1", *rows[6:]]))
    refused("dosages.bgen", r"dosages\.sample(, line 6: 4 columns|: person 4 is)")
    cells = rows[5].split()
    rows[5] = " ".join([cells[0], "other", *cells[2:]])
    (folder / "dosages.sample").write_text("\n".join(rows))
    refused("dosages.bgen", r"dosages\.sample: person 4 is 0 other where .* has per3; is it the")

    lines = (folder / "pgen.pvar").read_text().splitlines(keepends=True)
    (folder / "pgen.pvar").write_text("".join([*lines, lines[-1]]))
    edit("pgen.pgen", 3, (90).to_bytes(4, "little"))
    refused("pgen.pgen", r"pgen\.pvar: 91 variants where .*pgen\.pgen has 90")
    vcf = (folder / "plain.vcf").read_text()
    (folder / "plain.vcf").write_text(vcf.rstrip("\n").rpartition("\t")[0] + "\n")
    refused("plain.vcf", r"plain\.vcf, line \d+: 45 columns where 37 people make 46")


def test_bgen_without_ids_needs_a_sample_file(containers, tmp_path):
    from bgen import BgenWriter

    path = tmp_path / "no_ids.bgen"
    with BgenWriter(path, 2) as out:
        out.add_variant("v", "v", "1", 1, ["A", "C"], [[1, 0, 0], [0, 1, 0]])
    assert not path.read_bytes()[23] & 0x80  # no ids
    with pytest.raises(InputError, match=r"no sample ids in it; name its \.sample file"):
        convert([path], tmp_path / "x.zarr", workers=0)
    (tmp_path / "no_ids.sample").write_text("ID_1 ID_2 missing sex\n0 0 0 D\nf1 a 0 2\nf2 b 0 1\n")
    samples = convert([path], tmp_path / "x.zarr", workers=0).samples
    assert samples.individual_id.tolist() == ["a", "b"]
    assert samples.family_id is not None
    assert samples.family_id.tolist() == ["f1", "f2"]
    assert samples.sex.tolist() == [2, 1]


# Processes ------------------------------------------------------------------------------------


class Crashes:
    """A reader that ends its process."""

    def __init__(self, number: int) -> None:
        self.number = number

    def read_block(self, start: int, stop: int) -> None:
        os.kill(os.getpid(), self.number)


def part_of(reader: object, store: Path) -> Part:
    return Part(0, 0, 5, (Piece("bad.bgen", reader, 10, 15),), store, 5, 4, 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (signal.SIGSEGV, InputError, "the reader crashed with SIGSEGV"),
        (signal.SIGKILL, InfrastructureError, "the process reading them was ended by SIGKILL"),
    ],
)
def test_a_crash_ends_the_conversion_alone(tmp_path, monkeypatch, number, error, words):
    import zarr

    zarr.create_group(tmp_path / "x.zarr", zarr_format=3)
    # The child finds this module where the tests do.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    with pytest.raises(error, match=rf"bad\.bgen: variants 11 to 15: {words}"):
        list(ReaderProcesses(1).run([part_of(Crashes(number), tmp_path / "x.zarr")]))


def test_processes_write_what_this_one_writes(containers, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "PART_VARIANTS", 30)
    here = convert([containers / "bgen8.bgen"], tmp_path / "0.zarr", workers=0, chunk_variants=10)
    seen: list[tuple[int, int]] = []
    there = convert(
        [containers / "bgen8.bgen"],
        tmp_path / "2.zarr",
        workers=2,
        chunk_variants=10,
        progress=lambda *p: seen.append(p),
    )
    assert there.fingerprint == here.fingerprint
    assert sorted(seen)[-1] == (90, 90)
    assert len(seen) == 3
    # An error of a part arrives as it is.
    damaged = shutil.copy(containers / "bgen8.bgen", tmp_path / "d.bgen")
    data = bytearray(Path(damaged).read_bytes())
    data[-3] ^= 0x55
    Path(damaged).write_bytes(data)
    with pytest.raises(InputError, match=r"d\.bgen: variant \d+"):
        convert([Path(damaged)], tmp_path / "d.zarr", workers=1)
    assert processes.__name__ in sys.modules
