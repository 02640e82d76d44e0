"""Conversion on a Dask cluster, and to object stores."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from container_files import plink2

from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.conversion import writer
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.conversion.parts import Part, Piece
from hlmm_scan.scan.clusters import EmbeddedCluster
from hlmm_scan.scan.conversion import DaskPool, pool_of

pytest.importorskip("bgen")


@pytest.fixture
def bgen(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(writer, "PART_VARIANTS", 20)
    plink2("--dummy", 31, 70, 0.05, "acgt", "dosage-freq=0.5", "--make-pgen", "--out",
           tmp_path / "d")  # fmt: skip
    plink2("--pfile", tmp_path / "d", "--export", "bgen-1.2", "bits=8", "ref-first", "--out",
           tmp_path / "d")  # fmt: skip
    return tmp_path / "d.bgen"


class Reads:
    """A reader that says no, or ends its process."""

    def __init__(self, crash: bool) -> None:
        self.crash = crash

    def read_block(self, start: int, stop: int) -> None:
        if self.crash:
            os.kill(os.getpid(), signal.SIGKILL)
        raise InputError(f"x.bgen: variant {start + 1} is bad")


def test_parts_on_a_dask_cluster(bgen, tmp_path):
    import cloudpickle
    import zarr

    here = convert([bgen], tmp_path / "here.zarr", workers=0, chunk_variants=10)
    pool = DaskPool(EmbeddedCluster(1))
    there = convert([bgen], tmp_path / "there.zarr", pool=pool, chunk_variants=10)
    assert there.fingerprint == here.fingerprint
    np.testing.assert_array_equal(there.read_block(0, 70).codes, here.read_block(0, 70).codes)
    zarr.create_group(tmp_path / "x.zarr", zarr_format=3)
    cloudpickle.register_pickle_by_value(__import__(__name__, fromlist=["Reads"]))
    try:
        for crash, words in (
            (False, "variant 6 is bad"),
            (True, "variants 6 to 9: ended every worker"),
        ):
            piece = Piece("x.bgen", Reads(crash), 5, 9)
            part = Part(0, 0, 4, (piece,), tmp_path / "x.zarr", 4, 31, 0.0)
            with pytest.raises(InputError, match=rf"x\.bgen: {words}"):
                list(pool.run([part]))
    finally:
        cloudpickle.unregister_pickle_by_value(__import__(__name__, fromlist=["Reads"]))


def test_a_scheduler_must_have_an_address():
    with pytest.raises(InputError, match="is not an address"):
        pool_of("nonsense")


def test_processes_write_to_an_object_store(bgen, tmp_path, bucket):
    here = convert([bgen], tmp_path / "here.zarr", workers=0, chunk_variants=10)
    there = convert([bgen], f"{bucket}/g.zarr", workers=1, chunk_variants=10)
    assert there.fingerprint == here.fingerprint
    np.testing.assert_array_equal(there.read_block(3, 70).codes, here.read_block(3, 70).codes)
