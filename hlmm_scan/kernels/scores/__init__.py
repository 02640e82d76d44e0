"""Score tests at the null model and their p-values."""
