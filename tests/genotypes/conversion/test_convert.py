"""Converting: content, layout, size and memory; and that nothing is ever half-written."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from hlmm_scan import __version__, schema
from hlmm_scan.errors import InfrastructureError, InputError
from hlmm_scan.genotypes.conversion import duplicates, writer
from hlmm_scan.genotypes.conversion.convert import convert, default_chunk_variants
from hlmm_scan.genotypes.conversion.parts import OF_DOSAGES, ThisProcess
from hlmm_scan.genotypes.conversion.sources import open_sources
from hlmm_scan.genotypes.conversion.writer import DatasetWriter
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.genotypes.packing import unpack


def size_on_disk(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def plain_counts(copies: np.ndarray) -> np.ndarray:
    return np.stack([(copies == g).sum(axis=1) for g in (0, 1, 2, -1)], axis=1)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "geno.zarr"


def left_beside(out: Path) -> list[str]:
    return [p.name for p in out.parent.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("chunk", [None, 1, 7, 64, 1000])
def test_what_goes_in_comes_out(make_fileset, copies, out, chunk, monkeypatch):
    monkeypatch.setattr(writer, "PART_VARIANTS", 20)
    seen: list[tuple[int, int]] = []
    bed = make_fileset(copies)
    dataset = convert([bed], out, chunk_variants=chunk, progress=lambda *p: seen.append(p))
    assert (dataset.n_variants, dataset.n_samples) == copies.shape
    assert dataset.chunk_variants == min(chunk or 64, 101)
    np.testing.assert_array_equal(unpack(dataset.read_packed(0, 101), 23), copies)
    np.testing.assert_array_equal(dataset.genotype_counts(0, 101), plain_counts(copies))
    table = dataset.variants(0, 101)
    assert table.variant_id.tolist() == [f"data_{v}" for v in range(101)]
    assert set(table.effect_allele) == {"AT"}
    assert set(table.other_allele) == {"G"}
    assert dataset.samples.individual_id.tolist() == [f"i{i}" for i in range(23)]
    assert dataset.samples.family_id is not None
    assert dataset.samples.family_id.tolist() == [f"fi{i}" for i in range(23)]
    assert dataset.samples.sex.tolist() == [i % 3 for i in range(23)]
    assert len(seen) == -(-101 // (dataset.chunk_variants * max(1, 20 // dataset.chunk_variants)))
    assert seen[-1] == (101, 101)
    assert left_beside(out) == []


def test_layout_is_that_of_the_registry(make_fileset, copies, out):
    copies[3] = -1  # all missing: equal to the fill value, and still written
    convert([make_fileset(copies)], out, chunk_variants=1)
    group = zarr.open_group(out, mode="r")
    entries = [v for v in schema.GENOTYPES if v.name not in OF_DOSAGES]
    assert sorted(name for name, _ in group.arrays()) == sorted(v.name for v in entries)
    for entry in entries:
        array = group[entry.name]
        assert isinstance(array, zarr.Array)
        assert array.metadata.dimension_names == entry.dims
        assert array.attrs["description"] == entry.description
        assert array.nchunks_initialized == array.nchunks
        if entry.dtype != "str":
            assert array.dtype == np.dtype(entry.dtype)
    calls = group["call_genotype_packed"]
    assert isinstance(calls, zarr.Array)
    assert calls.chunks == (1, 6)
    assert calls.fill_value == 0x55
    codecs = [c["name"] for c in json.loads((out / calls.path / "zarr.json").read_text())["codecs"]]
    assert codecs == ["bytes", "zstd", "crc32c"]


def test_xarray_opens_it_without_warnings(make_fileset, copies, out):
    copies[3] = -1
    convert([make_fileset(copies)], out)
    with xarray.open_zarr(out) as dataset:
        assert dataset.sizes["variants"] == 101
        called = plain_counts(copies)[:, :3]
        expected = (called @ [0, 1, 2])[:3] / (2 * called.sum(axis=1)[:3])
        frequency = dataset.variant_effect_allele_frequency.values
        np.testing.assert_allclose(frequency[:3], expected, rtol=1e-15)
        assert np.isnan(frequency[3])
        assert dataset.variant_missingness.values[3] == 1
        assert dataset.variant_missingness.values[0] == (copies[0] == -1).sum() / 23


def test_attributes(make_fileset, copies, out):
    dataset = convert([make_fileset(copies)], out)
    attributes = dict(zarr.open_group(out, mode="r").attrs)
    assert attributes["source_files"] == ["data.bed"]
    assert attributes["source"] == f"hlmm_scan-{__version__}"
    assert len(attributes["hlmm_scan"].pop("document_crc32c")) == 8
    assert attributes["hlmm_scan"] == {
        "kind": "genotypes",
        "format": 2,
        "version": __version__,
        "n_samples": 23,
        "n_variants": 101,
        "fingerprint": dataset.fingerprint,
        "checksums": True,
    }
    everything = b"".join(f.read_bytes() for f in out.rglob("zarr.json"))
    assert str(out.parent).encode() not in everything


def test_fingerprint_is_of_the_content(make_fileset, copies, tmp_path):
    ids = [f"rs{v}" for v in range(101)]
    whole = make_fileset(copies, "whole", ids=ids)
    prints = [
        convert([whole], tmp_path / f"{chunk}.zarr", chunk_variants=chunk).fingerprint
        for chunk in (3, 64)
    ]
    changed = copies.copy()
    changed[50, 11] = 2 if copies[50, 11] != 2 else 1
    others = [
        make_fileset(changed, "a", ids=ids),
        make_fileset(copies, "b", ids=["rs", *ids[1:]]),
        make_fileset(copies, "c", ids=ids, contig="2"),
        make_fileset(copies, "d", ids=ids, people=[f"j{i}" for i in range(23)]),
    ]
    prints += [convert([b], b.with_suffix(".zarr")).fingerprint for b in others]
    assert prints[0] == prints[1]
    assert len(set(prints[1:])) == 5
    assert all(p.startswith("sha256:") and len(p) == 71 for p in prints)


def test_one_fileset_per_chromosome(make_fileset, copies, out):
    cuts = [(0, 40), (40, 41), (41, 101)]
    beds = [make_fileset(copies[a:b], f"chr{c}", contig=f"c{c}") for c, (a, b) in enumerate(cuts)]
    # A prefix does for a .bed; chunks cross the borders between files.
    dataset = convert([beds[0].with_suffix(""), *beds[1:]], out, chunk_variants=9)
    np.testing.assert_array_equal(unpack(dataset.read_packed(0, 101), 23), copies)
    assert dataset.contigs == ("c0", "c1", "c2")
    np.testing.assert_array_equal(dataset.variant_contig(), np.repeat([0, 1, 2], [40, 1, 60]))
    table = dataset.variants(39, 42)
    assert table.contig.tolist() == ["c0", "c1", "c2"]
    assert table.variant_id.tolist() == ["chr0_39", "chr1_0", "chr2_0"]
    assert table.position.tolist() == [400, 10, 10]


def test_filesets_of_other_people(make_fileset, copies, out):
    first = make_fileset(copies, "a")
    swapped = [f"i{i}" for i in range(23)]
    swapped[6], swapped[7] = "i7", "i6"
    second = make_fileset(copies, "b", people=swapped)
    words = r"b\.fam: person 7 is FID fi7, IID i7 where .*a\.fam has FID fi6, IID i6"
    with pytest.raises(InputError, match=words):
        convert([first, second], out)
    third = make_fileset(copies[:, :22], "c")
    with pytest.raises(InputError, match=r"c\.fam: 22 people where .*a\.fam has 23"):
        convert([first, third], out)
    with pytest.raises(InputError, match="given twice"):
        convert([first, first.with_suffix("")], out)
    assert not out.exists()


def test_duplicate_variant_ids_are_kept_and_warned_of(make_fileset, copies, out, caplog):
    ids = [f"rs{v}" for v in range(101)]
    ids[40] = ids[90] = ids[5]
    ids[60] = ids[59]
    with caplog.at_level(logging.WARNING):
        dataset = convert([make_fileset(copies, ids=ids)], out)
    assert [r.getMessage() for r in caplog.records] == [
        "3 variants have the id of an earlier one (first: rs5, variant 41); all are kept, each by "
        "its position"
    ]
    assert dataset.variants(0, 101).variant_id.tolist() == ids


def test_real_mice(shared_data, out):
    bed = shared_data / "mouse" / "mouse_hs1940.bed"
    dataset = convert([bed], out)
    assert (dataset.n_variants, dataset.n_samples) == (12226, 1940)
    copies = unpack(dataset.read_packed(0, 12226), 1940)
    raw = np.fromfile(bed, np.uint8)[3:].reshape(12226, 485)
    np.testing.assert_array_equal(dataset.read_packed(0, 12226), raw)
    np.testing.assert_array_equal(dataset.genotype_counts(0, 12226), plain_counts(copies))
    assert dataset.contigs == tuple(str(c) for c in range(1, 20))
    # The whole store, tables and metadata included.
    assert size_on_disk(out) <= bed.stat().st_size / 4


def test_incompressible_calls_cost_no_more_than_framing(make_fileset, tmp_path, out):
    codes = np.random.default_rng(3).integers(-1, 3, size=(4000, 2000)).astype(np.int8)
    bed = make_fileset(codes)
    convert([bed], out, chunk_variants=1000)
    packed = sum(f.stat().st_size for f in (out / "call_genotype_packed" / "c").rglob("*/0"))
    # zstd stores what it cannot shrink as it is: 3 bytes a 128 KiB block and a short header.
    chunks = 4
    assert packed <= bed.stat().st_size + chunks * (32 + 3 * -(-500_000 // 131072))
    random_genotypes = np.random.default_rng(4).binomial(2, 0.3, size=(4000, 2000)).astype(np.int8)
    bed = make_fileset(random_genotypes, "hwe")
    convert([bed], tmp_path / "hwe.zarr")
    assert size_on_disk(tmp_path / "hwe.zarr") < bed.stat().st_size


def test_memory_does_not_grow_with_variants(make_fileset, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "TABLE_CHUNK_VARIANTS", 512)
    monkeypatch.setattr(writer, "PART_VARIANTS", 512)
    monkeypatch.setattr(duplicates, "HASHES_AT_ONCE", 512)
    monkeypatch.setattr(duplicates, "_READ", 256)
    peaks = []
    for m in (1024, 1024, 8192):  # the first one pays for what is loaded once
        bed = make_fileset(np.ones((m, 400), dtype=np.int8), f"m{m}")
        tracemalloc.start()
        convert([bed], tmp_path / f"{m}.zarr", chunk_variants=128, overwrite=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 7,168 more variants: 0.7 MB of packed calls and more of text, of which nothing stays but the
    # checksums of their 56 chunks of calls and those of text, each of 128 variants here.
    assert peaks[2] < peaks[1] + 300_000


def test_default_chunks():
    assert default_chunk_variants(500_000, 10_000_000) == 67
    assert default_chunk_variants(5_000_000, 10_000_000) == 64
    assert default_chunk_variants(2_000, 10_000_000) == 8192
    assert default_chunk_variants(1_940, 12_226) == 192
    assert default_chunk_variants(4, 10) == 64


# ------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("x.bim", r"name the \.bed; \.bim and \.fam go with it"),
        ("x.pvar.zst", r"name the \.pgen"),
        ("x.sample", r"name the \.bgen"),
        ("x.txt", "unknown kind of genotype file"),
    ],
)
def test_other_kinds_of_files(tmp_path, out, name, words):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=words):
        convert([tmp_path / name], out)
    assert not out.exists()


def test_no_source(tmp_path, out):
    with pytest.raises(InputError, match="no genotype files given"):
        convert([], out)
    with pytest.raises(
        InputError, match=r"nothing: no such file, nor .*nothing\.bed or nothing\.p"
    ):
        convert([tmp_path / "nothing"], out)
    with pytest.raises(InputError, match=r"nothing\.bed: no such file"):
        convert([tmp_path / "nothing.bed"], out)


def test_bad_chunk_size(make_fileset, copies, out):
    with pytest.raises(InputError, match="at least 1, not 0"):
        convert([make_fileset(copies)], out, chunk_variants=0)


def test_output_is_replaced_only_where_it_is_ours(make_fileset, copies, out):
    bed = make_fileset(copies)
    first = convert([bed], out)
    with pytest.raises(InputError, match="stands there already"):
        convert([bed], out)
    changed = make_fileset(2 - np.abs(copies), "changed")
    second = convert([changed], out, overwrite=True)
    assert second.fingerprint != first.fingerprint
    assert left_beside(out) == []

    group = zarr.open_group(out, mode="r+")
    group.attrs["hlmm_scan"] = {"kind": "results"}
    for target in (out, out.parent, bed):
        with pytest.raises(InputError, match="no genotype dataset of this package stands there"):
            convert([bed], target, overwrite=True)
    assert bed.exists()
    link = out.parent / "link.zarr"
    link.symlink_to(out)
    with pytest.raises(InputError, match=r"link\.zarr: a link to .*geno\.zarr; name that itself"):
        convert([bed], link, overwrite=True)


def test_no_folder_to_write_in(make_fileset, copies, tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        convert([make_fileset(copies)], tmp_path / "absent" / "geno.zarr")


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOSPC, InputError, "No space left on device"),
        (errno.EROFS, InputError, "Read-only file system"),
        (errno.EIO, InfrastructureError, "Input/output error"),
    ],
)
@pytest.mark.parametrize("writes", [0, 1, 20])
def test_failed_write_leaves_nothing(
    make_fileset, copies, out, monkeypatch, code, kind, words, writes
):
    from zarr.storage import _local

    real, count = _local._put, 0

    def put(*args, **kwargs):
        nonlocal count
        count += 1
        if count > writes:
            raise OSError(code, os.strerror(code), "some/temporary/file")
        return real(*args, **kwargs)

    bed = make_fileset(copies)
    monkeypatch.setattr(_local, "_put", put)
    with pytest.raises(kind, match=rf"geno\.zarr: cannot be written: {words}") as raised:
        convert([bed], out, chunk_variants=10)
    assert "\n" not in str(raised.value)
    assert not out.exists()
    assert left_beside(out) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_interrupt_leaves_what_was_there(make_fileset, copies, out, error):
    bed = make_fileset(copies)
    first = convert([bed], out)

    def interrupt(done: int, total: int) -> None:
        raise error

    changed = make_fileset(2 - np.abs(copies), "changed")
    with pytest.raises(error):
        convert([changed], out, overwrite=True, progress=interrupt)
    assert GenotypeDataset.open(out).fingerprint == first.fingerprint
    # What can be gone on with is kept, until something else is made there.
    assert len(left_beside(out)) == (error is KeyboardInterrupt)
    convert([bed], out, overwrite=True)
    assert left_beside(out) == []


def test_bad_line_far_down_leaves_nothing(make_fileset, copies, out):
    bed = make_fileset(copies)
    bim = bed.with_suffix(".bim")
    bim.write_text(bim.read_text().replace("\t1010\t", "\tlast\t"))
    with pytest.raises(InputError, match=r"line 101: position 'last'"):
        convert([bed], out)
    assert not out.exists()
    assert left_beside(out) == []


@pytest.mark.parametrize("lines", [90, 110])
def test_bim_that_changes_meanwhile(make_fileset, copies, out, lines):
    bed = make_fileset(copies)
    joined = open_sources([bed])
    rows = bed.with_suffix(".bim").read_text().splitlines() * 2
    bed.with_suffix(".bim").write_text("\n".join(rows[:lines]))
    writer = DatasetWriter(joined, out, 10, ThisProcess(), None)
    with pytest.raises(InputError, match="changed while it was read"):
        writer.write()


def test_too_many_chromosomes(make_fileset, out):
    m = np.iinfo(np.int16).max + 1
    bed = make_fileset(np.ones((m, 1), dtype=np.int8), contig=[f"s{i}" for i in range(m)])
    with pytest.raises(InputError, match="more than 32767 chromosomes"):
        convert([bed], out)


KILLED = """
import os, signal, sys
from hlmm_scan.genotypes.conversion import writer
from hlmm_scan.genotypes.conversion.convert import convert
writer.PART_VARIANTS = 10
def kill(done, total):
    if done >= 50: os.kill(os.getpid(), signal.SIGKILL)
convert([sys.argv[1]], sys.argv[2], chunk_variants=5, progress=kill)
"""


def files_of(store: Path) -> dict[str, bytes]:
    return {
        f.relative_to(store).as_posix(): f.read_bytes() for f in store.rglob("*") if f.is_file()
    }


def test_killed_conversion_goes_on_with_the_same_bytes(
    make_fileset, copies, out, tmp_path, monkeypatch
):
    monkeypatch.setattr(writer, "PART_VARIANTS", 10)
    bed = make_fileset(copies)
    ended = subprocess.run([sys.executable, "-c", KILLED, bed, out], check=False, timeout=300)
    assert ended.returncode == -signal.SIGKILL
    assert not out.exists()
    (left,) = left_beside(out)
    # As if it had been killed in the midst of a write.
    (tmp_path / left / "content" / "variant_id" / "c" / "0.4711.partial").write_bytes(b"torn")
    with (tmp_path / left / "parts.jsonl").open("a") as journal:
        journal.write('{"index": 5, "st')
    seen: list[tuple[int, int]] = []
    convert([bed], out, chunk_variants=5, progress=lambda *p: seen.append(p))
    assert len(seen) == 6  # of 11 parts, five had been noted
    assert left_beside(out) == []
    convert([bed], tmp_path / "at_once.zarr", chunk_variants=5)
    assert files_of(out) == files_of(tmp_path / "at_once.zarr")


@pytest.mark.parametrize("writes", ["the manifest", "the root"])
def test_conversion_killed_at_its_end_gives_the_same_bytes(make_fileset, copies, out, writes):
    """What the first process wrote last is not taken for a part of the data by the second."""
    bed = make_fileset(copies)
    last = {"the manifest": 1, "the root": 2}[writes]
    killed = f"""
import os, signal, sys
from hlmm_scan.storage import arrays
from hlmm_scan.genotypes.conversion.convert import convert
put, calls = arrays.put_bytes, 0
def kill(*arguments):
    global calls
    calls += 1
    if calls == {last}: os.kill(os.getpid(), signal.SIGKILL)
    put(*arguments)
arrays.put_bytes = kill
convert([sys.argv[1]], sys.argv[2], chunk_variants=5)
"""
    ended = subprocess.run([sys.executable, "-c", killed, bed, out], check=False, timeout=300)
    assert ended.returncode == -signal.SIGKILL
    assert not out.exists()
    convert([bed], out, chunk_variants=5)
    undisturbed = out.with_name("undisturbed.zarr")
    convert([bed], undisturbed, chunk_variants=5)
    assert files_of(out) == files_of(undisturbed)


def test_killed_conversion_is_swept_by_another(make_fileset, copies, out):
    bed = make_fileset(copies)
    subprocess.run([sys.executable, "-c", KILLED, bed, out], check=False, timeout=300)
    assert len(left_beside(out)) == 1
    bed.touch()  # it may hold something else now
    seen: list[tuple[int, int]] = []
    convert([bed], out, chunk_variants=5, progress=lambda *p: seen.append(p))
    assert seen == [(101, 101)]
    assert left_beside(out) == []
