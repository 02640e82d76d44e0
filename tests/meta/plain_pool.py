"""The pool of one variant, written out with matrices: what the fast one is held against."""

from __future__ import annotations

import numpy as np
from numpy.linalg import inv
from scipy.stats import chi2, norm


def plain_pool(cohorts: list[dict[str, float]]) -> dict[str, float]:
    """Pool cohorts that know both effects, their covariances, and all three tests."""
    informations, covariances, thetas = [], [], []
    for c in cohorts:
        model = [[c["add_se"] ** 2, c["add_var_cov"]], [c["add_var_cov"], c["var_se"] ** 2]]
        both = c["add_var_cov_robust"]
        covariances.append(
            np.array([[c["add_se_robust"] ** 2, both], [both, c["var_se_robust"] ** 2]])
        )
        informations.append(inv(np.array(model)))
        thetas.append(np.array([c["add"], c["var"]]))
    total = inv(sum(informations))
    theta = total @ sum(a @ t for a, t in zip(informations, thetas, strict=True))
    middle = sum(a @ v @ a for a, v in zip(informations, covariances, strict=True))
    covariance = total @ middle @ total
    out = {
        "add": theta[0],
        "var": theta[1],
        "add_se": covariance[0, 0] ** 0.5,
        "var_se": covariance[1, 1] ** 0.5,
        "add_var_cov": covariance[0, 1],
        "q_av": sum(
            (t - theta) @ inv(v) @ (t - theta) for t, v in zip(thetas, covariances, strict=True)
        ),
        "n": sum(c["n"] for c in cohorts),
    }
    for k, name in enumerate(("add", "var")):
        x = np.array([t[k] for t in thetas])
        w = np.array([1 / v[k, k] for v in covariances])
        out[f"q_{name}"] = float((w * (x - (w * x).sum() / w.sum()) ** 2).sum())
    k = len(cohorts)
    for name, df in (("add", k - 1), ("var", k - 1), ("av", 2 * k - 2)):
        q = out[f"q_{name}"]
        out[f"i2_{name}"] = max(0.0, 1 - df / q) if q > 0 else 0.0
        out[f"q_{name}_neg_log10_p"] = -chi2.logsf(q, df) / np.log(10)

    ratios = sorted(c["var_se_robust"] / c["var_se"] for c in cohorts)
    centre = ratios[(k - 1) // 2]
    z = {"add": 0.0, "var": 0.0, "given": 0.0}
    below = dict.fromkeys(z, 0.0)
    for c, v in zip(cohorts, covariances, strict=True):
        w = 1 / c["var_se"]
        w_var = w * min(max(c["var_se_robust"] / c["var_se"], centre / 1.25), centre * 1.25)
        z_add = np.copysign(norm.isf(10 ** -c["add_neg_log10_p"] / 2), c["add"])
        z_var = np.copysign(norm.isf(10 ** -c["var_neg_log10_p"] / 2), c["var"])
        rho = v[0, 1] / np.sqrt(v[0, 0] * v[1, 1])
        size = np.sqrt(max(2 * np.log(10) * c["av_neg_log10_p"] - z_add**2, 0.0))
        given = np.copysign(size, z_var - rho * z_add)
        for name, one, weight in (
            ("add", z_add, w),
            ("var", z_var, w_var),
            ("given", given, w_var),
        ):
            z[name] += weight * one
            below[name] += weight**2
    z = {name: z[name] / below[name] ** 0.5 for name in z}
    out["add_neg_log10_p"] = -np.log10(2 * norm.sf(abs(z["add"])))
    out["var_neg_log10_p"] = -np.log10(2 * norm.sf(abs(z["var"])))
    out["av_neg_log10_p"] = (z["add"] ** 2 + z["given"] ** 2) / (2 * np.log(10))
    return out
