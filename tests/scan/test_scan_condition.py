"""Conditioning: variants as covariates of mean and variance, whatever the kernel."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hlmm_scan.cohort.condition import Conditioning, read_conditioning
from hlmm_scan.config import ScanConfig
from hlmm_scan.errors import InputError
from hlmm_scan.genotypes.blocks import Dosages, HardCalls
from hlmm_scan.genotypes.conversion.convert import convert
from hlmm_scan.genotypes.dataset import GenotypeDataset
from hlmm_scan.genotypes.packing import pack_reference
from hlmm_scan.genotypes.ploidy import HaploidRegions
from hlmm_scan.genotypes.readers.plink import PlinkWriter
from hlmm_scan.genotypes.samples import SampleIds
from hlmm_scan.genotypes.variants import VariantTable
from hlmm_scan.models import HLM
from hlmm_scan.scan import run
from hlmm_scan.scan.executors import SerialExecutor
from hlmm_scan.schema import Status

IDS = ("rs1_5", "rs2_7")
COVARIATES = ("hlm", "joint", "hlmm")
MODES = [(kind, {}) for kind in COVARIATES] + [
    ("joint", {"covariate_mode": "null"}),
    ("hlmm", {"method": "score"}),
]


def copies_of(bench, variant_id, samples):
    dataset = GenotypeDataset.open(bench.genotypes())
    conditioning = read_conditioning(dataset, [variant_id])
    return conditioning.columns(samples, "trait1")[:, 0]


@pytest.mark.parametrize(("kind", "changed"), MODES)
def test_a_variant_conditioned_on_is_not_unique_and_others_are_tested(
    bench, tmp_path, kind, changed
):
    store = bench.scan(
        tmp_path / "r", kind, phenotype=("trait1",), condition=IDS, min_maf=0.05, **changed
    )
    trait = xr.open_zarr(store).sel(phenotype="trait1").load()
    status = dict(zip(trait.variant_id.values, trait.status.values, strict=True))
    assert {status[i] for i in IDS} == {Status.NOT_UNIQUE}
    others = trait.status.values[~np.isin(trait.variant_id.values, IDS)]
    assert np.isin(others, [Status.OK, Status.SCREENED, Status.REFINED]).sum() > 50
    assert (others == Status.NOT_UNIQUE).sum() == 0


def test_the_fit_is_that_with_both_designs_extended(bench, tmp_path):
    store = bench.scan(tmp_path / "r", "joint", phenotype=("trait1",), condition=IDS)
    result = run.ResultStore.open(store)
    trait = xr.open_zarr(store).sel(phenotype="trait1").load()
    null = result.null_group("trait1")
    samples = np.asarray(null["samples"][...])
    table = pd.read_csv(bench.phenotypes, sep="\t")["trait1"].to_numpy()[samples]
    age_sex = pd.read_csv(bench.cohort.covariates, sep="\t")[["age", "sex"]].to_numpy()[samples]
    extra = [copies_of(bench, i, samples) for i in IDS]
    for variant_id in ("rs1_9", "rs3_2"):
        calls = read_conditioning(GenotypeDataset.open(bench.genotypes()), [variant_id])
        g = calls.copies[0, samples]
        called = ~np.isnan(g)
        X = np.column_stack([np.ones(len(g)), age_sex, *extra, np.nan_to_num(g)])[called]
        fit = HLM(table[called], X, X).fit()
        row = trait.isel(variant=list(trait.variant_id.values).index(variant_id))
        assert float(row["add"]) == pytest.approx(fit.alpha[-1], abs=1e-5 * fit.alpha_se[-1])
        assert float(row["var"]) == pytest.approx(fit.beta[-1], abs=1e-5 * fit.beta_se[-1])
    names = [e["name"] for e in null.attrs["covariate_fit"]["effects"] if e["part"] == "mean"]
    assert names == ["intercept", "age", "sex", "variant rs1_5", "variant rs2_7"]


def test_a_list_is_the_same_as_its_ids(bench, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("rs1_5\n\nrs2_7\n")
    config = bench.config(tmp_path / "r", condition=IDS)
    run.prepare(config)
    run.prepare(bench.config(tmp_path / "r", condition_list=listed))
    with pytest.raises(InputError, match="condition: stored"):
        run.prepare(bench.config(tmp_path / "r", condition=IDS[:1]))


def test_the_variant_need_not_be_scanned(bench, tmp_path):
    store = bench.scan(
        tmp_path / "r", "joint", phenotype=("trait1",), condition=IDS, region=("2",), min_maf=0.05
    )
    part = xr.open_zarr(store).sel(phenotype="trait1").load()
    assert set(part.contig.values) == {"2"}
    whole = bench.scan(
        tmp_path / "whole", "joint", phenotype=("trait1",), condition=IDS, min_maf=0.05
    )
    whole = xr.open_zarr(whole).sel(phenotype="trait1").load()
    rows = np.isin(whole.variant_id.values, part.variant_id.values)
    np.testing.assert_array_equal(part.status.values, whole.status.values[rows])
    np.testing.assert_allclose(part["var"].values, whole["var"].values[rows], rtol=1e-8)
    assert (part.status.values == Status.NOT_UNIQUE).sum() == 1


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"condition": ("rs1_5", "rs1_5")}, "condition: variant rs1_5 is given twice"),
        ({"condition": ("rs9_5",)}, "variant id rs9_5 is not among its variant ids"),
        ({"condition_list": ["rs1_5 rs1_6"]}, "line 1: expected one variant id, found 2"),
        ({"condition_list": [""]}, "no variant ids in it"),
        ({"condition": ("rs1_5",), "covariate_mode": "seed"}, "condition needs covariate_mode"),
    ],
)
def test_what_is_refused(bench, tmp_path, changed, line):
    for option, lines in changed.items():
        if isinstance(lines, list):
            (tmp_path / option).write_text("\n".join(lines))
            changed = {option: tmp_path / option}
    with pytest.raises(InputError, match=line):
        run.prepare(bench.config(tmp_path / "r", **changed))
    assert not (tmp_path / "r").exists()


def test_missing_calls_get_the_mean_of_the_people_analysed():
    copies = np.array([[0, 1, 2, np.nan, 2, np.nan], [1, 1, 1, 1, 0, 1.0]])
    conditioning = Conditioning(("a", "b"), copies)
    columns = conditioning.columns(np.array([0, 1, 3, 4]), "t")
    np.testing.assert_array_equal(columns, [[0, 1], [1, 1], [1, 1], [2, 0]])
    for samples, variant in ([0, 1, 2, 3], "b"), ([3, 5, 4], "a"):
        with pytest.raises(InputError, match=f"variant {variant} does not vary among the"):
            conditioning.columns(np.array(samples), "t")
    assert np.isnan(copies).sum() == 2


def test_calls_that_haploid_people_cannot_have_are_missing():
    copies = np.array([[0, 1, 2, 1, 0, 2]], np.int8)

    class OnX:
        n_samples = 6
        samples = SampleIds(np.array(list("abcdef"), object), None, np.array([1, 1, 1, 2, 2, 0]))

        def find_variants(self, ids):
            return np.arange(len(ids))

        def read_block(self, start, stop):
            return HardCalls(pack_reference(copies)[start:stop], 6)

        def variants(self, start, stop):
            one = np.array(["A"], object)
            return VariantTable(np.array(["X"], object), np.array([9_000_000]), one, one, one)

    def read(*given):
        return read_conditioning(OnX(), ["v"], *given).copies

    np.testing.assert_array_equal(read(), copies)
    np.testing.assert_array_equal(read(HaploidRegions()), [[0, np.nan, 2, 1, 0, 2]])
    np.testing.assert_array_equal(read(HaploidRegions(), np.full(6, 2, np.int8)), copies)


def test_dosages_can_be_conditioned_on():
    class Imputed:
        n_samples = 4

        def find_variants(self, ids):
            return np.array([int(i) for i in ids])

        def read_block(self, start, stop):
            codes = np.array([[0, 255, 510, 65_535], [51, 0, 0, 255]], np.uint16)
            return Dosages(codes[start:stop], 1 / 255)

    found = read_conditioning(Imputed(), ["1", "0"])
    np.testing.assert_array_equal(found.copies, [[0.2, 0, 0, 1], [0, 1, 2, np.nan]])


def test_a_neighbour_in_incomplete_linkage(tmp_path):
    """A strong additive locus looks like variance effects of its neighbours, r² about 0.5.

    Haplotypes of the locus (4%) lie on those of each neighbour, which has others as well: among
    carriers of a neighbour the locus varies, among the rest it does not.
    """
    rng = np.random.default_rng(11)
    n, neighbours = 3000, 16
    locus = rng.random((2, n)) < 0.04
    near = [locus | (rng.random((2, n)) < 0.042) for _ in range(neighbours)]
    calls = np.array([locus.sum(axis=0), *(h.sum(axis=0) for h in near)], np.int8)
    r2 = [np.corrcoef(calls[0], calls[k])[0, 1] ** 2 for k in range(1, neighbours + 1)]
    assert 0.4 < np.mean(r2) < 0.6
    y = 1.5 * calls[0] + rng.standard_normal(n)

    ids = np.array([f"i{k}" for k in range(n)], object)
    names = np.array([f"v{k}" for k in range(len(calls))], object)
    variants = VariantTable(
        contig=np.full(len(calls), "1", object),
        position=np.arange(1, len(calls) + 1, dtype=np.int32),
        variant_id=names,
        other_allele=np.full(len(calls), "A", object),
        effect_allele=np.full(len(calls), "C", object),
    )
    with PlinkWriter(tmp_path / "near", SampleIds(ids, ids)) as writer:
        writer.append(variants, calls)
    convert([tmp_path / "near.bed"], tmp_path / "g.zarr")
    pd.DataFrame({"IID": ids, "y": y}).to_csv(tmp_path / "y.tsv", sep="\t", index=False)

    def tests(**options):
        config = ScanConfig(
            genotypes=tmp_path / "g.zarr",
            phenotypes=tmp_path / "y.tsv",
            output=tmp_path / f"r{len(options)}",
            workers=1,
            **options,
        )
        store = run.scan(config, executor=SerialExecutor()).path
        trait = xr.open_zarr(store).isel(phenotype=0).load()
        return trait["status"].values, trait["var_neg_log10_p"].values[1:]

    _, alone = tests()
    assert np.median(alone) > 8
    status, given = tests(condition=("v0",))
    assert status[0] == Status.NOT_UNIQUE
    assert (status[1:] == Status.OK).all()
    assert np.median(given) < 0.7  # 0.3 by chance
    assert given.max() < 4
