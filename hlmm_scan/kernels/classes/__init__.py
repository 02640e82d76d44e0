"""HLM without covariates, on sums within genotype classes."""
