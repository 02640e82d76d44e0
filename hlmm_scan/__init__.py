"""Distributed scans for genetic effects on the mean and the variance of a trait.

For every variant and phenotype the heteroskedastic linear mixed model

    y ~ N(X a, D + h2·G Gᵀ),   D = diag(exp(V b))

is fitted with the genotype in both X (mean) and V (log-variance).
"""

__version__ = "0.1.0"
