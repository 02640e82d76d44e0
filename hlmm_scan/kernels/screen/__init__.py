"""One step from the null model for every variant, from one pass over the genotypes."""
