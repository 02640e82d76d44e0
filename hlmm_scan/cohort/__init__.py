"""Who is analysed, with which phenotype and covariates."""
