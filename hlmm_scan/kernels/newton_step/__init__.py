"""HLM with covariates on hard calls: the class fit and one Newton step in all parameters."""
