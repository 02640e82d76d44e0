"""Several datasets, and chosen variants of them, read as one."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import BGEN_8_BIT, FINEST, PGEN, Dosages, joined
from hlmm_scan.genotypes.chromosomes import chromosome
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.genotypes.joined import (
    FEWEST_VARIANTS,
    JoinedGenotypes,
    chosen_variants,
)
from hlmm_scan.genotypes.open import open_genotypes
from hlmm_scan.genotypes.packing import pack, unpack_samples
from hlmm_scan.genotypes.ploidy import HaploidRegions
from hlmm_scan.genotypes.selection import Region, VariantChoice
from hlmm_scan.null.chromosomes import variant_kinds

SIZES = (37, 1, 50)
CHUNKS = (10, 4, 16)


@pytest.fixture
def paths(make_fileset, copies, tmp_path) -> list[Path]:
    """Three datasets of 23 people: 37, 1 and 50 variants, in chunks of 10, 4 and 16."""
    places = []
    for k, (stop, m, chunk) in enumerate(zip(np.cumsum(SIZES), SIZES, CHUNKS, strict=True)):
        contig = ["1", "2", "X"][k]
        bed = make_fileset(copies[stop - m : stop], f"chr{contig}", contig=contig)
        convert([bed], tmp_path / f"{contig}.zarr", chunk_variants=chunk)
        places.append(tmp_path / f"{contig}.zarr")
    return places


@pytest.fixture
def whole(copies) -> np.ndarray:
    return pack(copies[: sum(SIZES)])


@pytest.fixture
def reads(monkeypatch) -> list[tuple[str, int, int]]:
    """What is read of which dataset's calls."""
    noted: list[tuple[str, int, int]] = []
    original = GenotypeDataset.read_block

    def read_block(self, start, stop):
        noted.append((self.path.name, start, stop))
        return original(self, start, stop)

    monkeypatch.setattr(GenotypeDataset, "read_block", read_block)
    return noted


def test_several_datasets_are_one_after_the_other(paths, whole):
    view = open_genotypes(paths)
    assert isinstance(view, JoinedGenotypes)
    assert (view.n_variants, view.n_samples, view.chunk_variants) == (88, 23, 16)
    assert view.contigs == ("1", "2", "X")
    assert view.variant_contig().tolist() == [0] * 37 + [1] + [2] * 50
    for start, stop in ((0, 88), (30, 45), (36, 39), (37, 38), (60, 60), (5, 7)):
        np.testing.assert_array_equal(view.read_packed(start, stop), whole[start:stop])
        table = view.variants(start, stop)
        ids = [f"chr1_{k}" for k in range(37)] + ["chr2_0"] + [f"chrX_{k}" for k in range(50)]
        assert table.variant_id.tolist() == ids[start:stop]
        assert view.variant_ids(start, stop).tolist() == ids[start:stop]
        assert len(view.genotype_counts(start, stop)) == stop - start
    assert view.find_variants(["chrX_3", "chr1_0", "chr2_0"]).tolist() == [41, 0, 37]
    for bad in ((-1, 3), (4, 3), (80, 89)):
        with pytest.raises(IndexError):
            view.read_block(*bad)


def test_one_dataset_stays_what_it_is(paths):
    assert isinstance(open_genotypes(paths[:1]), GenotypeDataset)
    dataset = open_genotypes(paths[:1])
    assert chosen_variants(dataset, None) is dataset
    view = chosen_variants(dataset, np.array([3, 5]))
    assert view.fingerprint == dataset.fingerprint
    assert view.paths == dataset.paths == (paths[0],)


def test_the_fingerprint_is_of_content_and_order(paths, tmp_path):
    one, again = open_genotypes(paths), open_genotypes(paths)
    assert one.fingerprint == again.fingerprint
    assert one.fingerprint != open_genotypes(paths[::-1]).fingerprint
    assert one.fingerprint not in {p.fingerprint for p in one.parts}


def test_blocks_end_where_datasets_end_and_do_not_depend_on_where_one_starts(paths):
    view = open_genotypes(paths)
    blocks = list(view.blocks(0, 88))
    assert blocks == [(0, 16), (16, 32), (32, 37), (37, 38), (38, 48), (48, 64), (64, 80), (80, 88)]
    assert list(view.blocks(32, 64)) + list(view.blocks(64, 88)) == blocks[2:]


def test_reading_on_decodes_a_chunk_once(paths, whole, reads):
    view = open_genotypes(paths)
    blocks = [view.read_block(*block) for block in view.blocks(0, 88)]
    np.testing.assert_array_equal(joined(blocks).packed, whole)
    assert len(reads) == len(set(reads)) == 4 + 1 + 4


def test_what_is_read_may_be_changed(paths, whole):
    view = open_genotypes(paths)
    for start, stop in ((3, 7), (3, 7), (0, 10), (0, 10), (8, 13), (8, 13)):
        block = view.read_packed(start, stop)
        np.testing.assert_array_equal(block, whole[start:stop])
        block[:] = 0


def test_chosen_variants_touch_only_their_chunks(paths, whole, reads):
    rows = np.array([2, 3, 9, 37, 38, 86])
    view = chosen_variants(open_genotypes(paths), rows)
    assert (view.n_variants, view.chunk_variants) == (6, 16)
    assert view.contigs == ("1", "2", "X")
    assert list(view.blocks(0, 6)) == [(0, 3), (3, 4), (4, 6)]
    np.testing.assert_array_equal(view.read_packed(0, 6), whole[rows])
    assert reads == [("1.zarr", 0, 10), ("2.zarr", 0, 1), ("X.zarr", 0, 16), ("X.zarr", 48, 50)]
    ids = ["chr1_2", "chr1_3", "chr1_9", "chr2_0", "chrX_0", "chrX_48"]
    assert view.variants(0, 6).variant_id.tolist() == ids
    assert view.find_variants(["chrX_48"]).tolist() == [5]
    with pytest.raises(InputError, match="chr1_0 is not among its variant ids"):
        view.find_variants(["chr1_0"])
    assert chosen_variants(open_genotypes(paths), np.array([40])).contigs == ("X",)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_rows_are_read_as_they_are(tmp_path_factory, data):
    places, whole = _session(tmp_path_factory)
    rows = np.array(sorted(data.draw(st.sets(st.integers(0, 87), min_size=1))), dtype=np.int64)
    view = chosen_variants(open_genotypes(places), rows)
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    np.testing.assert_array_equal(view.read_packed(start, stop), whole[rows[start:stop]])
    cut = list(view.blocks(0, len(rows)))
    assert [a for a, _ in cut] == [0, *(b for _, b in cut[:-1])]
    assert cut[-1][1] == len(rows)
    positions = view.variants(0, len(rows)).position
    everything = open_genotypes(places).variants(0, 88).position
    np.testing.assert_array_equal(positions, everything[rows])


_MADE: list[tuple[list[Path], np.ndarray]] = []


def _session(factory) -> tuple[list[Path], np.ndarray]:
    """The three datasets, made once for all examples."""
    if not _MADE:
        from hlmm_scan.simulate import simulate_cohort

        folder = factory.mktemp("joined")
        cohort = simulate_cohort(
            folder / "c", n_samples=30, variants_per_chromosome=30, n_random_effects=0
        )
        places = []
        for k, bed in enumerate(cohort.beds):
            convert([bed], folder / f"{k}.zarr", chunk_variants=(7, 30, 11)[k])
            places.append(folder / f"{k}.zarr")
        joined = convert(cohort.beds, folder / "all.zarr")
        _MADE.append((places, joined.read_packed(0, 90)))
    return _MADE[0]


def test_few_of_many_variants_are_still_cut_for_many_tasks(paths):
    part = open_genotypes(paths[:1])

    class Large(GenotypeDataset):
        def __init__(self, part):
            self.__dict__.update(part.__dict__)
            self.n_variants, self.chunk_variants = 10_000_000, 8_192

    large = Large(part)
    for chosen, size in ((10, FEWEST_VARIANTS), (5_000, 78), (64_000, 1_000), (10**6, 8_192)):
        view = JoinedGenotypes([large], np.arange(chosen))
        assert view.chunk_variants == size
    assert JoinedGenotypes([large, large]).chunk_variants == 8_192


def test_goes_to_another_process(paths, whole):
    view = chosen_variants(open_genotypes(paths), np.array([5, 50]))
    again = pickle.loads(pickle.dumps(view))
    np.testing.assert_array_equal(again.read_packed(0, 2), whole[[5, 50]])


def test_dosages_of_several_units_and_hard_calls_stand_side_by_side(paths, whole, monkeypatch):
    units = {"1.zarr": PGEN, "2.zarr": 0.0, "X.zarr": BGEN_8_BIT}
    original = GenotypeDataset.read_block

    def read_block(self, start, stop):
        unit = units[self.path.name]
        if not unit:
            return original(self, start, stop)
        return Dosages(np.repeat(np.arange(start, stop, dtype=np.uint16)[:, None], 23, 1), unit)

    monkeypatch.setattr(GenotypeDataset, "read_block", read_block)
    parts = [GenotypeDataset.open(path) for path in paths]
    for part in parts:
        part.unit = units[part.path.name]
    view = JoinedGenotypes(parts)
    assert (view.unit, view.held_bytes) == (FINEST, 2 * 16 * 23)
    kinds = []
    for first, last in view.blocks(0, 88):
        block = view.read_block(first, last)
        assert len(block) == last - first
        kinds.append(block.unit if isinstance(block, Dosages) else 0.0)
    assert kinds == [PGEN, PGEN, PGEN, 0.0, *[BGEN_8_BIT] * 4]
    block = view.read_block(8, 12)
    assert isinstance(block, Dosages)
    assert block.codes[:, 0].tolist() == [8, 9, 10, 11]
    # Where no range of blocks() lies, what is read is still right.
    copies = view.read_block(36, 39).copies()
    assert copies[0] == pytest.approx(36 * PGEN, abs=FINEST / 2)
    np.testing.assert_array_equal(copies[1], unpack_samples(whole[37:38], np.arange(23))[0])
    assert (copies[2] == 0).all()
    np.testing.assert_array_equal(view.read_packed(37, 38), whole[37:38])
    with pytest.raises(InputError, match="have dosages"):
        view.read_packed(0, 3)


def test_info_is_that_of_the_parts_that_have_it(paths, monkeypatch):
    view = chosen_variants(open_genotypes(paths), np.array([1, 37, 40]))
    assert view.info(0, 3) is None
    given = {"X.zarr": np.linspace(0, 1, 50)}
    monkeypatch.setattr(
        GenotypeDataset,
        "info",
        lambda self, a, b: given[self.path.name][a:b] if self.path.name in given else None,
    )
    np.testing.assert_array_equal(view.info(0, 3), [np.nan, np.nan, given["X.zarr"][2]])


# People -----------------------------------------------------------------------------------


def of_people(make_fileset, copies, tmp_path, people, name) -> Path:
    bed = make_fileset(copies[:5, : len(people)], name, people=people)
    convert([bed], tmp_path / f"{name}.zarr")
    return tmp_path / f"{name}.zarr"


@pytest.mark.parametrize(
    ("people", "words"),
    [
        (["i0", "i1"], "two.zarr: 2 people, but .*one.zarr has 3"),
        (["i0", "i2", "i1"], "two.zarr: person 2 is i2, but i1 in .*one.zarr"),
        (["i0", "i1", "x"], "two.zarr: person 3 is x, but i2 in .*one.zarr; .* same order"),
    ],
)
def test_other_people_are_refused_by_name(make_fileset, copies, tmp_path, people, words):
    one = of_people(make_fileset, copies, tmp_path, ["i0", "i1", "i2"], "one")
    two = of_people(make_fileset, copies, tmp_path, people, "two")
    with pytest.raises(InputError, match=words):
        open_genotypes([one, two])


def test_the_same_dataset_twice_is_refused(paths):
    with pytest.raises(
        InputError, match=r"1\.zarr: the same genotypes as .*1\.zarr; give them once"
    ):
        open_genotypes([paths[0], paths[1], paths[0]])


def test_one_that_is_no_dataset_is_named(paths, tmp_path):
    with pytest.raises(InputError, match=r"absent\.zarr: no such file or folder"):
        open_genotypes([paths[0], tmp_path / "absent.zarr"])


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_chromosomes_of_any_choice_are_those_of_its_variants(contigs_in_two, data):
    """Indices, names and tables agree, whichever variants and chromosomes are left out."""
    paths, contigs = contigs_in_two
    m = len(contigs)
    rows = data.draw(st.lists(st.integers(0, m - 1), min_size=1, max_size=m, unique=True))
    view = chosen_variants(open_genotypes(paths), np.array(sorted(rows)))
    expected = [contigs[row] for row in sorted(rows)]
    assert view.contigs == tuple(dict.fromkeys(expected))
    assert [view.contigs[k] for k in view.variant_contig()] == expected
    assert view.variants(0, len(rows)).contig.tolist() == expected
    kinds = variant_kinds(view, HaploidRegions(build="GRCh38"))
    assert list(dict.fromkeys(kind.contig for kind in kinds)) == list(dict.fromkeys(expected))
    for contig in view.contigs:
        chosen = VariantChoice(regions=(Region(contig, 0, 10**9),)).rows_of(view).rows
        assert chosen is not None
        assert {chromosome(expected[row]) for row in chosen} == {chromosome(contig)}


@pytest.fixture(scope="module")
def contigs_in_two(tmp_path_factory) -> tuple[list[Path], list[str]]:
    """Two datasets of some chromosomes each, one of which both have, and their chromosomes."""
    folder = tmp_path_factory.mktemp("contigs")
    rng = np.random.default_rng(4)
    paths, every = [], []
    for name, blocks in (("a", ["1", "2", "X", "Y"]), ("b", ["2", "7", "scaffold", "X", "1"])):
        contigs = [contig for contig in blocks for _ in range(5)]
        lines = [f"{c} {name}{k} 0 {3_000_000 + k} A G\n" for k, c in enumerate(contigs)]
        (folder / f"{name}.bim").write_text("".join(lines))
        (folder / f"{name}.fam").write_text("".join(f"0 i{k} 0 0 1 -9\n" for k in range(8)))
        calls = pack(rng.integers(0, 2, (len(contigs), 8)).astype(np.int8) * 2)
        (folder / f"{name}.bed").write_bytes(b"\x6c\x1b\x01" + calls.tobytes())
        convert([folder / f"{name}.bed"], folder / f"{name}.zarr", chunk_variants=4)
        paths.append(folder / f"{name}.zarr")
        every += contigs
    return paths, every
