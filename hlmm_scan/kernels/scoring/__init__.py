"""HLM with covariates, all parameters fitted at every variant: the fast kernel."""
