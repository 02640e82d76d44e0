"""HLM with covariates, all parameters fitted at every variant: the plain reference."""
