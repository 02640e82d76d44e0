"""Whatever the container, the same data give the same dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from container_files import (
    GZIPPED,
    PLINK2,
    REFERENCE_LAST,
    VCF_ZARR,
    blank,
    plink2,
    without_families,
    write_containers,
)

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import Dosages
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.genotypes.open import SourceOptions, open_dataset
from hlmm_scan.genotypes.readers.bgen import BgenFile
from hlmm_scan.genotypes.readers.bgen_probabilities import decode_any

pytest.importorskip("bgen")
pytest.importorskip("pgenlib")
pytest.importorskip("cyvcf2")
pytest.importorskip("bio2zarr")

FIRST = SourceOptions(bgen_effect_allele="first")
# VCF knows no sexes, so that its dataset is another one.
WITH_SEXES = [name for name in PLINK2 if not name.endswith(("vcf", "vcf.gz", "bcf"))]
WITHOUT = [name for name in (*PLINK2, GZIPPED) if name not in WITH_SEXES]


def hard(path: Path, out: Path, **options) -> GenotypeDataset:
    """Convert in this process: what starting one costs is seen elsewhere."""
    return convert([path], out, workers=0, chunk_variants=70, **options)


@pytest.fixture(scope="module", params=["as they are", "3% blanked"])
def mice(request, shared_data, tmp_path_factory):
    """Return the folder of 150 variants of mice in all containers, and their .bed converted."""
    folder = tmp_path_factory.mktemp("containers")
    mouse = shared_data / "mouse" / "mouse_hs1940"
    plink2("--bfile", mouse, "--chr", 17, "--thin-count", 150, "--seed", 1, "--make-bed",
           "--out", folder / "some")  # fmt: skip
    without_families(folder / "some", folder / "bed")
    if request.param == "3% blanked":
        blank(folder / "bed", 0.03, seed=5)
    files = write_containers(folder / "bed", folder)
    return files, hard(folder / "bed.bed", folder / "bed.zarr")


def same_content(one: GenotypeDataset, other: GenotypeDataset) -> None:
    m = one.n_variants
    assert (other.n_variants, other.n_samples) == (m, one.n_samples)
    np.testing.assert_array_equal(other.read_packed(0, m), one.read_packed(0, m))
    for column in ("contig", "position", "variant_id", "other_allele", "effect_allele"):
        np.testing.assert_array_equal(
            getattr(other.variants(0, m), column), getattr(one.variants(0, m), column)
        )
    np.testing.assert_array_equal(other.samples.individual_id, one.samples.individual_id)
    np.testing.assert_array_equal(other.genotype_counts(0, m), one.genotype_counts(0, m))
    assert other.contigs == one.contigs


def test_every_container_gives_the_same_dataset(mice, tmp_path):
    files, bed = mice
    for name in WITH_SEXES:
        options = FIRST if name == REFERENCE_LAST else None
        dataset = hard(files[name], tmp_path / f"{name}.zarr", options=options)
        assert dataset.fingerprint == bed.fingerprint, name
        same_content(bed, dataset)
        assert dataset.info(0, 3) is None  # nothing to be known of certain calls
    prints = set()
    for name in WITHOUT:
        dataset = hard(files[name], tmp_path / f"{name}.zarr")
        same_content(bed, dataset)
        prints.add(dataset.fingerprint)
    assert len(prints) == 1


@pytest.mark.parametrize("name", VCF_ZARR)
def test_vcf_zarr_is_read_as_it_is(mice, name, tmp_path):
    files, bed = mice
    dataset = open_dataset(files[name])
    assert dataset.chunk_variants == 50
    same_content(bed, dataset)
    np.testing.assert_array_equal(dataset.read_packed(43, 101), bed.read_packed(43, 101))
    np.testing.assert_array_equal(dataset.variant_contig(), bed.variant_contig())
    assert dataset.find_variants([str(bed.variants(77, 78).variant_id[0])]).tolist() == [77]
    assert dataset.unit == 0
    converted = hard(files[name], tmp_path / "c.zarr")
    same_content(bed, converted)
    assert converted.fingerprint == hard(files["plain.vcf"], tmp_path / "v.zarr").fingerprint


def test_several_containers_make_one_dataset(mice, tmp_path):
    """Chunks cross the borders between files of different kinds."""
    files, bed = mice
    order = ["bgen16.bgen", "pgen.pgen", "bgen8.bgen"]
    joined = convert([files[n] for n in order], tmp_path / "j.zarr", workers=0, chunk_variants=64)
    for k in range(3):
        np.testing.assert_array_equal(joined.read_packed(150 * k, 150 * k + 150),
                                      bed.read_packed(0, 150))  # fmt: skip
    assert joined.unit == 0  # all calls were whole after all


# Dosages ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def probabilities() -> np.ndarray:
    """Return genotype probabilities of 90 people at 40 variants, in steps of 1/255."""
    rng = np.random.default_rng(12)
    alpha = rng.uniform(0.2, 3.0, size=(40, 1, 3)) * np.ones((40, 90, 1))
    p = rng.standard_gamma(alpha)
    p /= p.sum(axis=2, keepdims=True)
    steps = np.floor(p * 255).astype(int)
    steps[..., 2] = 255 - steps[..., :2].sum(axis=2)
    return steps / 255.0


def write_bgen(path: Path, p: np.ndarray, *, missing: np.ndarray, **options) -> Path:
    from bgen import BgenWriter

    ids = [f"s{i}" for i in range(p.shape[1])]
    with BgenWriter(path, p.shape[1], samples=ids, compression="zlib") as out:
        for v, row in enumerate(np.where(missing[..., None], np.nan, p)):
            out.add_variant(f"v{v}", f"rs{v}", "7", 100 + v, ["G", "T"], row, **options)
    return path


def plain_info(p: np.ndarray, missing: np.ndarray) -> np.ndarray:
    """Return IMPUTE's information, variant by variant, as its formula stands."""
    out = []
    for row, absent in zip(p, missing, strict=True):
        e = (row[:, 1] + 2 * row[:, 2])[~absent]
        f = (row[:, 1] + 4 * row[:, 2])[~absent]
        theta = e.sum() / (2 * len(e))
        out.append(1 - (f - e**2).sum() / (2 * len(e) * theta * (1 - theta)))
    return np.array(out)


@pytest.mark.parametrize("bits", [8, 16, 11])
def test_bgen_dosages(probabilities, tmp_path, bits):
    missing = np.random.default_rng(3).random(probabilities.shape[:2]) < 0.05
    path = write_bgen(tmp_path / "x.bgen", probabilities, missing=missing, bit_depth=bits)
    dataset = convert([path], tmp_path / "x.zarr", workers=0, chunk_variants=16)
    block = dataset.read_block(0, 40)
    assert isinstance(block, Dosages)
    exact = probabilities[..., 1] + 2 * probabilities[..., 2]
    copies = block.copies()
    np.testing.assert_array_equal(np.isnan(copies), missing)
    if bits == 8:
        assert block.unit == 1 / 255
        np.testing.assert_array_equal(block.codes[~missing], np.rint(exact * 255)[~missing])
    half_step = 0.51 * block.unit + 1.5 / (2**bits - 1)
    np.testing.assert_allclose(copies[~missing], exact[~missing], atol=half_step)
    np.testing.assert_allclose(
        dataset.info(0, 40), plain_info(probabilities, missing), atol=4 / (2**bits - 1)
    )
    frequency = np.nanmean(copies, axis=1) / 2
    stored = dataset._arrays.read("variant_effect_allele_frequency")
    np.testing.assert_allclose(stored, frequency, rtol=1e-12)
    nearest = np.rint(np.where(missing, -1, copies))
    counts = np.stack([(nearest == k).sum(axis=1) for k in (0, 1, 2, -1)], axis=1)
    np.testing.assert_array_equal(dataset.genotype_counts(0, 40), counts)
    with pytest.raises(InputError, match="have dosages, not hard calls"):
        dataset.read_packed(0, 40)
    # The fingerprint is of the content, however it is cut.
    again = convert([path], tmp_path / "again.zarr", workers=0, chunk_variants=7)
    assert again.fingerprint == dataset.fingerprint
    np.testing.assert_array_equal(again.read_block(3, 30).codes, block.codes[3:30])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("n", [1, 3, 90])
def test_usual_probabilities_are_decoded_as_the_library_does(probabilities, tmp_path, bits, n):
    from bgen import BgenReader as Library

    p = probabilities[:, :n].copy()
    missing = np.random.default_rng(5).random(p.shape[:2]) < 0.2
    missing[7], missing[8:10] = True, False
    p[8], p[9] = [1, 0, 0], [0, 0, 1]
    path = write_bgen(tmp_path / "x.bgen", p, missing=missing, bit_depth=bits)
    source = BgenFile.open(path)
    list(source.variants(100))
    calls = source.reader().read_block(0, 40)
    with Library(path) as records:
        by_library = [decode_any(record, source.unit) for record in records]
    # The library's probabilities are of single precision: near halves of a step it rounds astray.
    library = np.stack([codes for codes, _ in by_library]).astype(int)
    np.testing.assert_allclose(calls.block.codes.astype(int), library, atol=0 if bits == 8 else 1)
    np.testing.assert_array_equal(calls.block.codes == 65535, library == 65535)
    np.testing.assert_allclose(calls.info, [info for _, info in by_library], atol=2e-5)
    assert np.isnan(calls.info[7])
    assert calls.info[8] == calls.info[9] == 1


def test_chunks_of_whole_copies_are_stored_as_hard_calls(probabilities, tmp_path):
    p = probabilities.copy()
    p[16:32] = np.eye(3)[np.random.default_rng(1).integers(0, 3, size=(16, 90))]
    missing = np.zeros(p.shape[:2], dtype=bool)
    path = write_bgen(tmp_path / "x.bgen", p, missing=missing)
    dataset = convert([path], tmp_path / "x.zarr", workers=0, chunk_variants=16)
    assert dataset.read_packed(16, 32).dtype == np.uint8
    assert isinstance(dataset.read_block(0, 16), Dosages)
    np.testing.assert_allclose(
        dataset.read_block(0, 40).copies(), p[..., 1] + 2 * p[..., 2], rtol=1e-12
    )
    other = convert([path], tmp_path / "y.zarr", workers=0, chunk_variants=5)
    assert other.fingerprint == dataset.fingerprint
    # As damaged as any other dataset where one is missing.
    (dataset.path / "call_dosage" / "c" / "2" / "0").unlink()
    with pytest.raises(InputError, match="chunk call_dosage/c/2/0 is missing"):
        dataset.read_block(30, 40)
    np.testing.assert_array_equal(dataset.read_packed(20, 30), other.read_packed(20, 30))


def test_phased_and_haploid_bgen(tmp_path):
    """Haplotype probabilities add up; who has one chromosome counts twice."""
    from bgen import BgenWriter

    rng = np.random.default_rng(8)
    with BgenWriter(tmp_path / "x.bgen", 50, samples=[f"s{i}" for i in range(50)]) as out:
        one, two = rng.integers(0, 256, size=(2, 50)) / 255
        phased = np.stack([1 - one, one, 1 - two, two], axis=1)
        out.add_variant("a", "a", "X", 1, ["A", "C"], phased, phased=True)
        ploidy = np.where(np.arange(50) % 3 == 0, 1, 2).astype(np.uint8)
        mixed = rng.integers(0, 128, size=(50, 3)) / 255
        mixed[:, 2] = 1 - mixed[:, 0] - mixed[:, 1]
        mixed[ploidy == 1, 2] = np.nan
        mixed[ploidy == 1, 1] = 1 - mixed[ploidy == 1, 0]
        out.add_variant("b", "b", "X", 2, ["A", "C"], mixed, ploidy=ploidy)
        calls = rng.integers(0, 2, size=50)
        out.add_variant("c", "c", "X", 3, ["A", "C"], np.eye(2)[calls], ploidy=1)
    dataset = convert([tmp_path / "x.bgen"], tmp_path / "x.zarr", workers=0)
    copies = dataset.read_block(0, 3).copies()
    np.testing.assert_allclose(copies[0], one + two, atol=1e-6)
    diploid = mixed[:, 1] + 2 * mixed[:, 2]
    np.testing.assert_allclose(
        copies[1], np.where(ploidy == 1, 2 * mixed[:, 1], diploid), atol=1e-6
    )
    np.testing.assert_array_equal(copies[2], 2 * calls)
    info = dataset.info(0, 3)
    assert info[2] == 1
    variance = one * (1 - one) + two * (1 - two)
    theta = (one + two).mean() / 2
    np.testing.assert_allclose(info[0], 1 - variance.mean() / (2 * theta * (1 - theta)), atol=1e-6)


def test_pgen_and_vcf_dosages(tmp_path):
    plink2("--dummy", 70, 60, 0.1, "dosage-freq=0.6", "--seed", 3, "--make-pgen", "--out",
           tmp_path / "p")  # fmt: skip
    # bio2zarr cannot do with position 0.
    pvar = (tmp_path / "p.pvar").read_text()
    (tmp_path / "p.pvar").write_text(pvar.replace("\t0\tsnp0\t", "\t1\tsnp0\t"))
    plink2("--pfile", tmp_path / "p", "--export", "vcf", "vcf-dosage=DS", "--out", tmp_path / "ds")
    plink2("--pfile", tmp_path / "p", "--export", "vcf", "bgz", "vcf-dosage=GP", "--out",
           tmp_path / "gp")  # fmt: skip
    import pgenlib
    import pysam
    from container_files import write_vcf_zarr

    expected = np.empty((60, 70), np.float32)
    with pgenlib.PgenReader(str(tmp_path / "p.pgen").encode()) as reader:
        reader.read_dosages_range(0, 60, expected)
    missing = expected == -9
    assert missing.any()
    pgen = convert([tmp_path / "p.pgen"], tmp_path / "p.zarr", workers=0)
    block = pgen.read_block(0, 60)
    assert block.unit == 1 / 16384
    np.testing.assert_array_equal(block.copies()[~missing], expected[~missing])
    assert np.isnan(block.copies()[missing]).all()
    assert pgen.info(0, 60) is None  # dosages alone have no probabilities
    for name, digits in (("ds.vcf", 5e-5), ("gp.vcf.gz", 5e-4)):
        vcf = convert([tmp_path / name], tmp_path / f"{name}.zarr", workers=0)
        read = vcf.read_block(0, 60).copies()
        np.testing.assert_array_equal(np.isnan(read), missing)
        np.testing.assert_allclose(read[~missing], expected[~missing], atol=digits)
        assert (vcf.info(0, 60) is None) == (name == "ds.vcf")
    # plink2 writes no DS where it is that of the call; and GP alone is no dosage to VCF-Zarr.
    pysam.tabix_compress(str(tmp_path / "ds.vcf"), str(tmp_path / "ds.vcf.gz"))
    write_vcf_zarr(tmp_path / "ds.vcf.gz", tmp_path / "ds.vcz")
    opened = open_dataset(tmp_path / "ds.vcz")
    converted = open_dataset(tmp_path / "ds.vcf.zarr")
    assert opened.unit == converted.unit
    # Its numbers are of single precision, as are those of htslib, in other operations.
    both = [dataset.read_block(5, 60).codes.astype(int) for dataset in (opened, converted)]
    np.testing.assert_allclose(*both, rtol=0, atol=1)
    with pytest.raises(InputError, match="variants 0:3 have dosages, not hard calls"):
        opened.read_packed(0, 3)


# Orientation ----------------------------------------------------------------------------------

VCF = """##fileformat=VCFv4.2
##contig=<ID=5>
##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">
#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\ta\tb\tc\td\te
5\t10\tasym\tACG\tT\t.\t.\t.\tGT\t0/0\t0/1\t1/1\t./.\t1|0
5\t20\tswapped\tT\tACG\t.\t.\t.\tGT\t1/1\t1/0\t0/0\t./.\t0|1
5\t30\thaploid\tA\tC\t.\t.\t.\tGT\t0\t1\t1/1\t.\t./1
5\t40\t.\tG\t.\t.\t.\t.\tGT\t0/0\t0/0\t0/0\t0/0\t0/0
"""
COPIES = [[0, 1, 2, -1, 1], [2, 1, 0, -1, 1], [0, 2, 2, -1, -1], [0, 0, 0, 0, 0]]


@pytest.fixture
def small_vcf(tmp_path) -> Path:
    (tmp_path / "small.vcf").write_text(VCF)
    return tmp_path / "small.vcf"


def told(dataset: GenotypeDataset) -> list[tuple[str, str, list[int]]]:
    from hlmm_scan.genotypes.packing import unpack

    copies = unpack(dataset.read_packed(0, dataset.n_variants), dataset.n_samples)
    table = dataset.variants(0, dataset.n_variants)
    return list(zip(table.other_allele, table.effect_allele, copies.tolist(), strict=True))


def test_the_alternative_allele_is_counted(small_vcf, tmp_path):
    alleles = [("ACG", "T"), ("T", "ACG"), ("A", "C"), ("G", ".")]
    expected = [(*pair, row) for pair, row in zip(alleles, COPIES, strict=True)]
    assert told(convert([small_vcf], tmp_path / "vcf.zarr", workers=0)) == expected
    # plink2 wants a chromosome of one copy for haploid calls, and nobody half called.
    plink2("--vcf", small_vcf, "--vcf-half-call", "m", "--exclude-snp", "haploid", "--make-bed",
           "--out", tmp_path / "bed")  # fmt: skip
    del expected[2]
    assert told(convert([tmp_path / "bed.bed"], tmp_path / "bed.zarr")) == expected
    for name in ("pgen.pgen", "bgen8.bgen", "bgen16.bgen", "bcf.bcf"):
        plink2("--bfile", tmp_path / "bed", *PLINK2[name], "--out", tmp_path / name.split(".")[0])
        assert told(convert([tmp_path / name], tmp_path / f"{name}.zarr", workers=0)) == expected
    # Without ref-first the same file counts the other allele, unless that is said.
    plink2("--bfile", tmp_path / "bed", *PLINK2[REFERENCE_LAST], "--out", tmp_path / "last")
    last = convert([tmp_path / "last.bgen"], tmp_path / "last.zarr", workers=0)
    assert told(last)[0] == ("T", "ACG", [2, 1, 0, -1, 1])
    first = convert([tmp_path / "last.bgen"], tmp_path / "f.zarr", workers=0, options=FIRST)
    assert told(first) == expected


def test_vcf_zarr_counts_the_alternative_allele(small_vcf, tmp_path):
    import pysam
    from container_files import write_vcf_zarr

    pysam.tabix_compress(str(small_vcf), str(tmp_path / "small.vcf.gz"))
    write_vcf_zarr(tmp_path / "small.vcf.gz", tmp_path / "small.vcz")
    converted = convert([small_vcf], tmp_path / "vcf.zarr", workers=0)
    opened = open_dataset(tmp_path / "small.vcz")
    assert told(opened) == told(converted)
    assert opened.variants(3, 4).variant_id.tolist() == ["."]


MORE = VCF.replace("ACG\tT\t", "ACG\tT,TT\t").replace("T\tACG\t", "T\tACG,G,*\t")


def test_records_of_more_alleles_are_refused_with_their_count(tmp_path):
    import pysam
    from bgen import BgenWriter
    from container_files import write_vcf_zarr

    words = r"2 of 4 records have more than two alleles \(first: line 5, asym: ACG/T/TT\); split or"
    vcf = tmp_path / "more.vcf"
    vcf.write_text(MORE)
    with pytest.raises(InputError, match=words):
        convert([vcf], tmp_path / "x.zarr", workers=0)
    pysam.tabix_compress(str(vcf), str(tmp_path / "more.vcf.gz"))
    write_vcf_zarr(tmp_path / "more.vcf.gz", tmp_path / "more.vcz")
    with pytest.raises(InputError, match=r"2 of 4 records .*first: variant 1: ACG/T/TT"):
        open_dataset(tmp_path / "more.vcz")
    plink2("--vcf", vcf, "--vcf-half-call", "m", "--exclude-snp", "haploid", "--make-pgen",
           "--out", tmp_path / "more")  # fmt: skip
    with pytest.raises(InputError, match=r"more\.pvar: 2 of 3 records"):
        convert([tmp_path / "more.pgen"], tmp_path / "x.zarr", workers=0)
    with BgenWriter(tmp_path / "more.bgen", 2, samples=["a", "b"]) as out:
        p = np.eye(6)[[0, 3]]
        out.add_variant("v", "rs1", "1", 1, ["A", "C", "G"], p)
    with pytest.raises(InputError, match=r"1 of 1 records .*variant 1, rs1: A/C/G"):
        convert([tmp_path / "more.bgen"], tmp_path / "x.zarr", workers=0)
    assert not (tmp_path / "x.zarr").exists()


def test_random_effects_of_dosages(probabilities, tmp_path):
    """Standardised over the people analysed, missing ones at the mean, as calls are."""
    from hlmm_scan.null.random_effects import load_random_effects

    missing = np.random.default_rng(3).random(probabilities.shape[:2]) < 0.05
    path = write_bgen(tmp_path / "x.bgen", probabilities, missing=missing)
    dataset = convert([path], tmp_path / "x.zarr", workers=0, chunk_variants=16)
    people = np.arange(3, 80, 2)
    source = load_random_effects(dataset.path, None, dataset.samples)
    columns = source.for_people(people, "trait").columns
    copies = np.where(missing, np.nan, probabilities[..., 1] + 2 * probabilities[..., 2])[:, people]
    centred = copies - np.nanmean(copies, axis=1, keepdims=True)
    centred[np.isnan(centred)] = 0
    expected = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True))
    np.testing.assert_allclose(columns, expected.T, atol=1e-9)
    (tmp_path / "ids.txt").write_text("rs3\nrs20\nrs39\n")
    some = load_random_effects(tmp_path / "ids.txt", dataset, dataset.samples)
    np.testing.assert_allclose(
        some.for_people(people, "trait").columns, expected.T[:, [3, 20, 39]], atol=1e-9
    )
