"""Random effects from a list or another dataset, for people in any order."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from genotypes_on_disk import people, write_dataset

from hlmm_scan.errors import InputError
from hlmm_scan.null.random_effects import load_random_effects

N, M = 30, 11
NAMES = [f"p{i}" for i in range(N)]
CONTIGS = ["chr1"] * 4 + ["2"] * 5 + ["X"] * 2


@pytest.fixture
def calls():
    rng = np.random.default_rng(3)
    calls = rng.binomial(2, 0.4, (M, N)).astype(np.int8)
    calls[rng.random((M, N)) < 0.1] = -1
    return calls


@pytest.fixture
def dataset(tmp_path, calls):
    return write_dataset(tmp_path, "scan", calls, NAMES, CONTIGS)


def imputed(calls):
    """Columns with mean 0 and variance 1, missing calls at the mean; (people, variants)."""
    columns = np.where(calls < 0, np.nan, calls.astype(float)).T
    columns = np.where(np.isnan(columns), np.nanmean(columns, axis=0), columns)
    return (columns - columns.mean(axis=0)) / columns.std(axis=0)


def test_a_list_takes_its_variants_from_the_scan_in_the_order_of_the_dataset(
    tmp_path, dataset, calls
):
    path = tmp_path / "ids.txt"
    path.write_text("v9\n\n  v2 \r\nv4\n")
    source = load_random_effects(path, dataset, dataset.samples)
    assert source.variant_ids == ("v2", "v4", "v9")
    assert source.contigs == ("1", "2", "X")
    np.testing.assert_array_equal(source.positions, [2, 4, 9])
    assert source.available.all()
    assert source.spans_chromosomes()
    samples = np.array([1, 4, 5, 8, 9, 12, 20, 21, 22, 29])
    effects = source.for_people(samples, "trait")
    np.testing.assert_allclose(
        effects.columns, imputed(calls[[2, 4, 9]][:, samples]), rtol=1e-12, atol=1e-12
    )
    np.testing.assert_allclose(
        effects.design("2"), effects.columns[:, [0, 2]] / np.sqrt(2), rtol=1e-15
    )


def test_a_list_on_one_chromosome_does_not_span_two(tmp_path, dataset):
    path = tmp_path / "ids.txt"
    path.write_text("v0\nv3\n")
    assert not load_random_effects(path, dataset, dataset.samples).spans_chromosomes()


def test_another_dataset_is_aligned_by_person(tmp_path, dataset, calls):
    order = np.random.default_rng(1).permutation(N)[:24]  # six are absent
    names = [NAMES[i] for i in order] + ["stranger"]
    other_calls = np.column_stack([calls[:, order], np.full(M, 2)])
    write_dataset(tmp_path, "other", other_calls, names, CONTIGS)
    source = load_random_effects(tmp_path / "other.zarr", dataset, dataset.samples)
    assert source.positions is None
    assert source.variant_ids == tuple(f"v{k}" for k in range(M))
    np.testing.assert_array_equal(np.flatnonzero(source.available), np.sort(order))
    present = np.flatnonzero(source.available)
    np.testing.assert_allclose(
        source.for_people(present, "trait").columns,
        imputed(calls[:, present]),
        rtol=1e-12,
        atol=1e-12,
    )


def test_people_of_a_table_find_their_genotypes_in_a_list(tmp_path, dataset, calls):
    path = tmp_path / "ids.txt"
    path.write_text("v1\n")
    table = people(["p7", "nobody", "p3"])
    source = load_random_effects(path, dataset, table)
    np.testing.assert_array_equal(source.rows, [7, -1, 3])


def test_constant_columns_are_dropped_with_one_warning(tmp_path, calls, caplog):
    calls[2] = 1
    calls[5] = -1
    calls[6, :10], calls[6, 10:] = 0, 2  # varies, but not among the first ten
    dataset = write_dataset(tmp_path, "scan", calls, NAMES, CONTIGS)
    source = load_random_effects(dataset.path, None, dataset.samples)
    with caplog.at_level(logging.WARNING):
        effects = source.for_people(np.arange(10), "height")
    (record,) = caplog.records
    assert record.getMessage().startswith("height: 3 of 11 random-effect variants do not vary")
    assert "v2" in record.getMessage()
    kept = [k for k in range(M) if k not in (2, 5, 6)]
    assert effects.variant_ids == tuple(f"v{k}" for k in kept)
    assert effects.contigs == tuple(
        c.removeprefix("chr") for k, c in enumerate(CONTIGS) if k in kept
    )
    np.testing.assert_allclose(effects.columns, imputed(calls[kept, :10]), rtol=1e-12, atol=1e-12)
    caplog.clear()
    assert source.for_people(np.arange(N), "height").columns.shape == (N, M - 2)


def test_nothing_that_varies_is_an_input_error(tmp_path, dataset, calls):
    path = tmp_path / "ids.txt"
    path.write_text("v1\nv2\n")
    source = load_random_effects(path, dataset, dataset.samples)
    same = np.flatnonzero((calls[1] == 0) & (calls[2] == 0))[:1]
    with pytest.raises(InputError, match=r"^trait: no random-effect variant varies"):
        source.for_people(np.repeat(same, 3), "trait")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"v1\nrs99\n", "rs99"),
        (b"v1\nv2\nv1\n", "line 3: variant v1 stands already on line 1"),
        (b"v1 A\nv2 C\n", "line 1: expected one variant id, found 2"),
        (b"", "no variant ids"),
        (b"\n \n", "no variant ids"),
        (b"\xff\xfe\x00v1", "not a text file"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_in_one_line(tmp_path, dataset, content, message):
    path = tmp_path / "ids.txt"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        load_random_effects(path, dataset, dataset.samples)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_id_carried_by_two_variants_is_refused(tmp_path, calls):
    ids = [f"v{k}" for k in range(M)]
    ids[7] = "v3"
    dataset = write_dataset(tmp_path, "scan", calls, NAMES, CONTIGS, ids)
    path = tmp_path / "ids.txt"
    path.write_text("v3\n")
    with pytest.raises(InputError, match="v3 is carried by more than one variant"):
        load_random_effects(path, dataset, dataset.samples)
    path.write_text("v4\n")
    np.testing.assert_array_equal(
        load_random_effects(path, dataset, dataset.samples).positions, [4]
    )


def test_paths_that_hold_no_random_effects_are_refused(tmp_path, dataset):
    with pytest.raises(InputError, match="no such file"):
        load_random_effects(tmp_path / "absent.txt", dataset, dataset.samples)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="neither a genotype dataset made by"):
        load_random_effects(tmp_path / "folder", dataset, dataset.samples)
    path = tmp_path / "ids.txt"
    path.write_text("v1\n")
    with pytest.raises(InputError, match="needs --genotypes"):
        load_random_effects(path, None, dataset.samples)


def test_a_dataset_of_other_people_is_refused(tmp_path, dataset, calls):
    write_dataset(tmp_path, "other", calls, [f"q{i}" for i in range(N)], CONTIGS)
    with pytest.raises(InputError, match="no person"):
        load_random_effects(tmp_path / "other.zarr", dataset, dataset.samples)


def test_the_fingerprint_follows_the_content(tmp_path, dataset):
    one, two, three = (tmp_path / f"{k}.txt" for k in "abc")
    one.write_text("v1\nv2\n")
    two.write_text("v1\nv2\n")
    three.write_text("v1\nv3\n")
    prints = [
        load_random_effects(p, dataset, dataset.samples).fingerprint for p in (one, two, three)
    ]
    assert prints[0] == prints[1] != prints[2]
    other = load_random_effects(dataset.path, None, dataset.samples)
    assert other.fingerprint == dataset.fingerprint
