"""Borrowed clusters and notebooks are left as they were found."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pandas as pd
import pytest
import zarr
from distributed import Client, LocalCluster
from threadpoolctl import threadpool_info

import hlmm_scan as hs
from hlmm_scan.scan.memory import own_bytes
from hlmm_scan.scan.worker import kept, let_go

SPARE = 20 << 20
"""Bytes that a process may have more than before."""

N, M, L = 1200, 128, 900


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """Genotypes and traits of a scan that keeps some hundred MB while it runs."""
    folder = tmp_path_factory.mktemp("big")
    rng = np.random.default_rng(4)
    copies = rng.binomial(2, 0.3, (M + L, N)).astype(np.int8)
    people = pd.Index([f"p{i}" for i in range(N)], name="IID")
    names = [f"v{j}" for j in range(M + L)]
    variants = pd.DataFrame(
        {
            "contig": ["1" if j < M else "2" for j in range(M + L)],
            "position": np.arange(1, M + L + 1) * 1000,
            "variant_id": names,
            "effect_allele": "C",
            "other_allele": "A",
        }
    )
    genotypes = hs.convert(copies, folder / "g.zarr", samples=people, variants=variants)
    covariates = pd.DataFrame({"x": rng.standard_normal(N)}, people)
    traits = pd.DataFrame({"t": rng.standard_normal(N)}, people)
    return genotypes, traits, covariates, names


def scan(big, output, **how):
    genotypes, traits, covariates, names = big
    return hs.scan(
        genotypes,
        traits,
        output,
        mean_covariates=covariates,
        variance_covariates=covariates,
        random_effects=names[M:],
        loco=False,
        region="1",
        **how,
    )


def settled() -> int:
    """Memory of this process's own, when everything that is free is given back."""
    gc.collect()
    let_go(threads=False)
    return own_bytes()


def held() -> int:
    return sum(function.cache_info().currsize for function in kept())


@pytest.mark.filterwarnings("ignore:Port 8787 is already in use")
def test_a_borrowed_cluster_is_left_as_it_was(big, tmp_path, capfd) -> None:
    with (
        LocalCluster(2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        scan(big, tmp_path / "warm.zarr", client=client)  # modules and machine code stay
        before = client.run(settled)
        results = scan(big, tmp_path / "r.zarr", client=client)
        after = client.run(own_bytes)
        assert client.run(held) == dict.fromkeys(before, 0)
        assert client.status == "running"
        assert client.submit(sum, (1, 2)).result() == 3
        for worker, bytes_before in before.items():
            assert after[worker] - bytes_before < SPARE
    assert results.complete
    here = scan(big, tmp_path / "here.zarr")
    for name, values in here.dataset.items():
        np.testing.assert_array_equal(values, results.dataset[name])
    assert capfd.readouterr().out == ""


def test_a_notebook_is_left_as_it_was(big, tmp_path) -> None:
    scan(big, tmp_path / "warm.zarr")
    threads = [pool["num_threads"] for pool in threadpool_info()]
    settings = zarr.config.get("async.concurrency"), zarr.config.get("threading.max_workers")
    alive = threading.active_count()
    before = settled()
    results = scan(big, tmp_path / "r.zarr")
    after = own_bytes()
    assert results.complete
    assert held() == 0
    assert after - before < SPARE
    assert [pool["num_threads"] for pool in threadpool_info()] == threads
    assert settings == (
        zarr.config.get("async.concurrency"),
        zarr.config.get("threading.max_workers"),
    )
    assert threading.active_count() <= alive


def test_what_is_kept_is_found_wherever_it_is(big, tmp_path, monkeypatch) -> None:
    import hlmm_scan.scan.run as run

    seen = []
    monkeypatch.setattr(run, "let_go", lambda: seen.append(held()))
    monkeypatch.setattr("hlmm_scan.api.scanning.let_go", lambda: None)
    scan(big, tmp_path / "r.zarr")
    assert seen[-1] > 4  # genotypes, store, traits, random effects; and what kernels keep
    let_go()
    assert held() == 0


def test_clients_that_cannot_serve_are_refused(big, tmp_path) -> None:
    with (
        LocalCluster(1, processes=False, dashboard_address=None) as cluster,
        Client(cluster) as client,
        pytest.raises(hs.InputError, match="threads of this process"),
    ):
        scan(big, tmp_path / "r.zarr", client=client)
    with pytest.raises(hs.InputError, match="is it closed"):
        scan(big, tmp_path / "r.zarr", client=client)
    with pytest.raises(hs.InputError, match="client excludes workers"):
        scan(big, tmp_path / "r.zarr", client=client, workers=2)
