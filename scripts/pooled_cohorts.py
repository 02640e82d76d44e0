"""Hold pooled cohorts against the fit of all people at once, and count rejections without effects.

Usage: pooled_cohorts.py [--quick] [--people N] [--cohorts K] [--variants M] [-o FOLDER] [--seed S]

1. One trait of N people with effects on mean and variance is fitted whole and in K parts; how far
   pooled effects are from the joint ones in joint standard errors, and pooled −log10 p from joint.
2. Traits without effects, normal and skewed, in large and small cohorts: how often the pooled tests
   and the Wald test of pooled effects have p below 1e-2 … 1e-5.

Exit status 1 where a pool is farther off than it should be.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import hlmm_scan as hs
from hlmm_scan.array_types import Float
from hlmm_scan.meta.pool import FIELDS, pool
from hlmm_scan.models.inference import wald_neg_log10_p

QUESTIONS = ("add", "var", "av")
LEVELS = (1e-2, 1e-3, 1e-4, 1e-5)


def fitted(y: Float, calls: NDArray[np.int8]) -> dict[str, Float]:
    """Scan some variants in some people."""
    found = hs.fit_variants(hs.fit_null(y), calls)
    unknown = np.full(len(calls), np.nan)
    return {n: np.asarray(found[n], np.float64) if n in found else unknown for n in FIELDS}


def pooled(y: Float, calls: NDArray[np.int8], cohorts: int) -> dict[str, Float]:
    """Scan the people in parts, and pool these."""
    parts = [fitted(y[k::cohorts], calls[:, k::cohorts]) for k in range(cohorts)]
    return pool({n: np.array([part[n] for part in parts]) for n in FIELDS}, range(cohorts))


def noise(kind: str, n: int, rng: np.random.Generator) -> Float:
    if kind == "normal":
        return rng.standard_normal(n)
    return (rng.gamma(2.0, 1.0, n) - 2.0) / np.sqrt(2.0)


def against_joint(
    kind: str, n: int, cohorts: int, traits: int, strongest: float, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    """Return quantiles of the distance of pooled from joint, one variant a trait."""
    rows: dict[str, list[float]] = {}
    for _ in range(traits):
        f = rng.uniform(0.05, 0.5)
        calls = rng.binomial(2, f, (1, n)).astype(np.int8)
        z = rng.uniform(-strongest, strongest, 2)
        unit = np.sqrt(n * 2 * f * (1 - f))
        y = z[0] / unit * calls[0]
        y = y + np.exp(0.5 * z[1] / unit * np.sqrt(2) * calls[0]) * noise(kind, n, rng)
        joint, pool_ = fitted(y, calls), pooled(y, calls, cohorts)
        for e in ("add", "var"):
            distance = (pool_[e] - joint[e]) / joint[f"{e}_se_robust"]
            rows.setdefault(e, []).append(abs(float(distance[0])))
            ratio = pool_[f"{e}_se"] / joint[f"{e}_se_robust"] - 1
            rows.setdefault(f"{e}_se", []).append(abs(float(ratio[0])))
        for q in QUESTIONS:
            column = f"{q}_neg_log10_p"
            rows.setdefault(column, []).append(abs(float((pool_[column] - joint[column])[0])))
    return {
        name: {"median": float(np.median(v)), "90%": float(np.quantile(v, 0.9)), "most": max(v)}
        for name, v in rows.items()
    }


def rejections(
    kind: str, n: int, cohorts: int, traits: int, variants: int, mac: int, rng: np.random.Generator
) -> dict[str, list[float]]:
    """Return rejections over expected ones at each level, of pooled and of Wald tests."""
    counts = {name: np.zeros(len(LEVELS)) for name in (*QUESTIONS, "add_wald", "var_wald")}
    total = 0
    levels = -np.log10(LEVELS)
    for _ in range(traits):
        f = np.maximum(rng.uniform(0.0, 0.5, variants), mac / (2 * n / cohorts))
        calls = rng.binomial(2, f[:, None], (variants, n)).astype(np.int8)
        found = pooled(noise(kind, n, rng), calls, cohorts)
        tests = {q: found[f"{q}_neg_log10_p"] for q in QUESTIONS}
        for e in ("add", "var"):
            tests[f"{e}_wald"] = wald_neg_log10_p(found[e], found[f"{e}_se"])
        for name, p in tests.items():
            counts[name] += (p[:, None] > levels).sum(axis=0)
        total += variants
    return {name: (c / (total * np.array(LEVELS))).tolist() for name, c in counts.items()} | {
        "tests": [float(total)]
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--people", type=int, default=100_000)
    parser.add_argument("--cohorts", type=int, default=10)
    parser.add_argument("--traits", type=int, default=40)
    parser.add_argument("--tests", type=int, default=2_000_000)
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.quick:
        given.people, given.traits, given.tests = 5_000, 3, 5_000
    far, much = (0.5, 0.4) if given.quick else (0.1, 0.2)
    rng = np.random.default_rng(given.seed)
    told: dict[str, object] = {}
    wrong = False
    for kind in ("normal", "gamma"):
        for strongest in (6.0, 12.0):
            found = against_joint(kind, given.people, given.cohorts, given.traits, strongest, rng)
            told[f"joint, {kind}, |z| to {strongest:g}"] = found
            print(f"{kind} noise, {given.people:,} people in {given.cohorts}, |z| to {strongest:g}")
            for name, quantiles in found.items():
                print(f"  {name:<16}" + "  ".join(f"{k} {v:.4f}" for k, v in quantiles.items()))
            wrong |= max(found[e]["median"] for e in ("add", "var")) > far
    variants = min(20_000, given.tests)
    sizes = (("gamma", 1_500, 20), ("normal", 5_000, 20), ("gamma", 5_000, 20))
    for kind, n, mac in sizes[: 1 if given.quick else 3]:
        traits = max(1, given.tests // variants)
        found = rejections(kind, n, given.cohorts, traits, variants, mac, rng)
        told[f"rejections, {kind}, {n}"] = found
        print(
            f"{kind} noise, no effect, {n:,} people in {given.cohorts}, {found['tests'][0]:,.0f} "
            f"tests: rejections over expected at {', '.join(f'{x:g}' for x in LEVELS)}"
        )
        for name in (*QUESTIONS, "add_wald", "var_wald"):
            print(f"  {name:<10}" + "  ".join(f"{ratio:6.2f}" for ratio in found[name]))
        wrong |= max(abs(found[q][0] - 1) for q in ("add", "var")) > much
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "pooled_cohorts.json").write_text(json.dumps(told, indent=1))
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
