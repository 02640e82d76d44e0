"""HLMM with covariates, or with as many random effects as people."""
