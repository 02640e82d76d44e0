"""Cohorts with known effects: PLINK files, tables, and the truth beside them."""

from hlmm_scan.simulate.cohort import TRAIT, SimulatedCohort, simulate_cohort

__all__ = ["TRAIT", "SimulatedCohort", "simulate_cohort"]
