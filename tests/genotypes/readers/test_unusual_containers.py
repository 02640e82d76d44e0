"""Containers as few programs write them: BGEN of several depths, VCF-Zarr of bytes."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import zarr

from hlmm_scan.errors import DamagedError
from hlmm_scan.genotypes.blocks import BGEN_8_BIT, FINEST, Dosages
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.open import open_dataset

N = 12


def text(value: str, width: int) -> bytes:
    return len(value.encode()).to_bytes(width, "little") + value.encode()


def record(number: int, p0: np.ndarray, p1: np.ndarray, bits: int) -> bytes:
    """One BGEN record of unphased diploid probabilities."""
    steps = (1 << bits) - 1
    stored = np.rint(np.column_stack([p0, p1]) * steps).astype("<u1" if bits == 8 else "<u2")
    body = struct.pack("<IHBB", N, 2, 2, 2) + bytes([2] * N) + bytes([0, bits]) + stored.tobytes()
    packed = zlib.compress(body)
    names = text("", 2) + text(f"rs{number}", 2) + text("1", 2)
    alleles = text("A", 4) + text("" if number == 3 else "G", 4)
    sizes = struct.pack("<II", len(packed) + 4, len(body))
    return names + struct.pack("<IH", 100 * (number + 1), 2) + alleles + sizes + packed


def write_bgen(path: Path, depths: list[int]) -> np.ndarray:
    """Write a BGEN whose records have these bits, and return its dosages as numbers."""
    rng = np.random.default_rng(3)
    p = rng.dirichlet([1, 1, 1], size=(len(depths), N))
    records = [record(k, p[k, :, 0], p[k, :, 1], bits) for k, bits in enumerate(depths)]
    ids = b"".join(text(f"p{k}", 2) for k in range(N))
    ids = struct.pack("<II", 8 + len(ids), N) + ids
    head = struct.pack("<III4sI", 20, len(depths), N, b"bgen", (1 << 31) | (2 << 2) | 1)
    path.write_bytes(struct.pack("<I", 20 + len(ids)) + head + ids + b"".join(records))
    return p[:, :, 1] + 2 * p[:, :, 2]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bgen_may_begin_with_fewer_bits_than_follow(tmp_path, workers):
    expected = write_bgen(tmp_path / "a.bgen", [8, 8, 16, 16])
    dataset = convert([tmp_path / "a.bgen"], tmp_path / "a.zarr", workers=workers)
    block = dataset.read_block(0, 4)
    assert isinstance(block, Dosages)
    assert (dataset.unit, block.unit) == (FINEST, FINEST)
    errors = np.abs(block.copies() - expected).max(axis=1)
    assert (errors < [0.01, 0.01, 1e-4, 1e-4]).all()
    assert [p.name for p in tmp_path.iterdir() if "zarr" in p.name] == ["a.zarr"]
    assert dataset.variants(3, 4).effect_allele.tolist() == ["."]


def test_bgens_of_one_depth_keep_their_unit(tmp_path):
    write_bgen(tmp_path / "a.bgen", [8, 8])
    assert convert([tmp_path / "a.bgen"], tmp_path / "a.zarr", workers=0).unit == BGEN_8_BIT


def write_vcf_zarr(path: Path, ids: np.ndarray, *, old: bool = False, **calls: np.ndarray) -> Path:
    """Write a VCF-Zarr store of three variants, its text as bytes."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    arrays = {
        **calls,
        "variant_position": np.array([100, 200, 300], dtype="i4"),
        "variant_contig": np.zeros(3, "i1"),
        "variant_allele": np.array([["A", "G"]] * 3, dtype="S1"),
        "variant_id": np.array(["rs0", "rs1", "rs2"], dtype="S3"),
        "sample_id": ids,
    }
    if old:
        group.attrs["contigs"] = ["chr7"]
    else:
        arrays["contig_id"] = np.array(["chr7"], dtype="S4")
    for name, values in arrays.items():
        group.create_array(name, data=values)
    return path


CALLS = np.array([[[0, 0], [0, 1]], [[1, 1], [0, 1]], [[0, 0], [1, 1]]], dtype="i1")


@pytest.mark.parametrize("old", [False, True])
def test_text_stored_as_bytes_is_text(tmp_path, old):
    ids = np.array(["Zo\u00eb".encode(), b"p1"], dtype="S4")
    path = write_vcf_zarr(tmp_path / "a.vcz", ids, old=old, call_genotype=CALLS)
    dataset = open_dataset(path)
    assert dataset.samples.individual_id.tolist() == ["Zo\u00eb", "p1"]
    table = dataset.variants(0, 3)
    assert (table.contig.tolist(), table.variant_id.tolist()) == (
        ["chr7"] * 3,
        ["rs0", "rs1", "rs2"],
    )
    assert table.effect_allele.tolist() == ["G"] * 3
    assert dataset.contigs == ("chr7",)


def test_bytes_that_are_no_utf_8_are_refused(tmp_path):
    ids = np.array([b"Zo\xeb", b"p1"], dtype="S4")
    with pytest.raises(DamagedError, match="sample_id is not text in UTF-8"):
        open_dataset(write_vcf_zarr(tmp_path / "a.vcz", ids, call_genotype=CALLS))


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("call_DS", [[0.1, 1], [2, 1], [0, 1.5]]),
        ("call_HDS", [[[0.1, 0], [0.5, 0.5]], [[1, 1], [1, 0]], [[0, 0], [1, 0.5]]]),
        (
            "call_GP",
            [[[0.9, 0.1, 0], [0, 1, 0]], [[0, 0, 1], [0, 1, 0]], [[1, 0, 0], [0, 0.5, 0.5]]],
        ),
    ],
)
@pytest.mark.parametrize("with_calls", [False, True])
def test_vcf_zarr_is_read_as_the_vcf_would_be(tmp_path, field, values, with_calls):
    arrays = {field: np.array(values, dtype="f4")}
    if with_calls:
        arrays["call_genotype"] = np.where(np.arange(3)[:, None, None] == 2, -1, CALLS)
    path = write_vcf_zarr(tmp_path / "a.vcz", np.array(["a", "b"], "S1"), **arrays)
    block = open_dataset(path).read_block(0, 3)
    np.testing.assert_allclose(block.copies(), [[0.1, 1], [2, 1], [0, 1.5]], atol=1e-4)


def test_a_wrong_value_in_vcf_zarr_names_variant_and_person(tmp_path):
    arrays = {"call_DS": np.array([[0, 1], [0, 2.5], [0, 0]], dtype="f4")}
    path = write_vcf_zarr(tmp_path / "a.vcz", np.array(["a", "b"], "S1"), **arrays)
    with pytest.raises(DamagedError, match=r"call_DS at variant 2, person b: DS is 2\.5, outside"):
        open_dataset(path).read_block(0, 3)
