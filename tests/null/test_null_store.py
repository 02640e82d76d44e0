"""Random effects in the result store: bit for bit, once for the same people, mapped."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from cohorts_by_hand import random_effects_of

from hlmm_scan.errors import InputError
from hlmm_scan.null import host_cache
from hlmm_scan.null.model import RandomEffects
from hlmm_scan.null.store import read_random_effects, write_random_effects

CONTIGS = {"few": ["1"] * 6 + ["2"] * 14 + ["X"] * 3, "more_than_people": ["1"] * 40 + ["2"] * 50}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv(host_cache.FOLDER_VARIABLE, str(tmp_path / "cache"))
    yield
    host_cache.sweep()


def files(tmp_path) -> list[int]:
    """Sizes of the arrays in the cache."""
    return sorted(np.load(path).nbytes for path in (tmp_path / "cache").rglob("*.npy"))


@pytest.mark.parametrize("kind", CONTIGS)
def test_random_effects_come_out_of_the_store_bit_for_bit(tmp_path, kind):
    effects = random_effects_of(61, CONTIGS[kind], seed=3)
    names = effects.set_names(["chr1", "02", "7"])
    assert names == ["", "1", "2"]
    group = zarr.create_group(tmp_path / "store")
    name = write_random_effects(group, effects, names)
    back = read_random_effects(zarr.open_group(tmp_path / "store", mode="r")[name])
    assert (back.contigs, back.variant_ids) == (effects.contigs, effects.variant_ids)
    assert list(back.sets) == names
    assert "7" not in back.sets
    for left_out in names:
        made, stored = effects.eigenstructure(left_out), back.eigenstructure(left_out)
        assert stored.scale == made.scale
        for field in ("columns", "chosen", "rotation", "values"):
            one, two = getattr(made, field), getattr(stored, field)
            assert one.dtype == two.dtype
            np.testing.assert_array_equal(one, two)
        np.testing.assert_array_equal(stored.single_columns(), made.single_columns())
        assert not stored.columns.flags.writeable
        assert not stored.single_columns().flags.writeable
        G = back.design(left_out)
        np.testing.assert_allclose(
            G @ G.T, effects.design(left_out) @ effects.design(left_out).T, atol=1e-12
        )


def test_one_copy_serves_all_sets_and_all_phenotypes_of_the_same_people(tmp_path):
    effects = random_effects_of(61, CONTIGS["few"], seed=3)
    group = zarr.create_group(tmp_path / "store")
    name = write_random_effects(group, effects, ["", "1"])
    again = RandomEffects(effects.columns.copy(), effects.contigs, effects.variant_ids)
    assert write_random_effects(group, again, ["", "1"]) == name
    others = [
        write_random_effects(group, random_effects_of(61, CONTIGS["few"], seed=4), ["", "1"]),
        write_random_effects(group, effects, [""]),
        write_random_effects(
            group,
            RandomEffects(effects.columns, ("2", *effects.contigs[1:]), again.variant_ids),
            [""],
        ),
    ]
    assert len({name, *others}) == len(list(group.group_keys())) == 4
    one, two = (read_random_effects(group[name]) for _ in range(2))
    sets = [effects.eigenstructure(key) for effects in (one, two) for key in ("", "1")]
    assert len({id(structure.columns) for structure in sets}) == 1
    singles = [structure.single_columns() for structure in sets]
    assert len({id(single) for single in singles}) == 1
    assert sets[1].rotation is sets[3].rotation
    assert files(tmp_path) == sorted([61 * 23 * 8, 61 * 23 * 4, 23 * 23 * 8, 17 * 17 * 8])


def test_with_more_random_effects_than_people_only_the_sets_asked_for_are_decoded(tmp_path):
    effects = random_effects_of(30, ["1"] * 100 + ["2"] * 300, seed=3)
    group = zarr.create_group(tmp_path / "store")
    back = read_random_effects(group[write_random_effects(group, effects, ["", "1", "2"])])
    assert back.columns is None
    assert files(tmp_path) == []
    assert "columns" not in next(iter(group.groups()))[1]
    structure = back.eigenstructure("2")
    assert files(tmp_path) == [structure.columns.nbytes]
    assert structure.columns.shape[1] <= 30


def test_a_lost_chunk_is_not_taken_for_zeros(tmp_path):
    effects = random_effects_of(61, CONTIGS["few"], seed=3)
    group = zarr.create_group(tmp_path / "store")
    name = write_random_effects(group, effects, [""])
    for chunk in (tmp_path / "store" / name / "columns" / "c").rglob("*"):
        if chunk.is_file():
            chunk.unlink()
    with pytest.raises(InputError, match=r"columns: damaged; start the scan anew"):
        read_random_effects(group[name])
