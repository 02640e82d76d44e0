"""The options of the per-variant fits, as a plan holds them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from hlmm_scan.kernels.block import FitOptions
from hlmm_scan.kernels.estimates import Inference
from hlmm_scan.scan.plan import Plan

logger = logging.getLogger(__name__)


def fit_options(plan: Plan) -> FitOptions:
    """Return the options of the per-variant fits, as the plan holds them."""
    return options_of(plan.parameters, dosages=plan.model.dosages)


def options_of(p: Mapping[str, Any], *, dosages: bool) -> FitOptions:
    """Return the options of the per-variant fits.

    Parameters
    ----------
    p : mapping of str to Any
        As :meth:`~hlmm_scan.scan.inputs.Inputs.parameters` gives them.
    dosages : bool
        Whether there are dosages among the genotypes.
    """
    return FitOptions(
        min_maf=p["min_maf"],
        min_mac=p["min_mac"],
        max_missing=p["max_missing"],
        inference=Inference(
            observed=p["se"] == "observed",
            sandwich=p["sandwich"],
            likelihood_ratio=p["likelihood_ratio"],
            interaction=p.get("interaction") is not None,
        ),
        screen=p["screen"],
        refine_below=p["refine_below"] or 0.0,
        # What a store of before does not know of was not asked for.
        # Information may be negative; where none was asked for it filters nobody.
        min_info=-np.inf if p.get("min_info") is None else p["min_info"],
        min_hwe_p=p.get("hwe") or 0.0,
        info=dosages or p.get("min_info") is not None,
        hwe=p.get("hwe") is not None,
    )
