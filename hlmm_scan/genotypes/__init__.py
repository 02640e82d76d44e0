"""Genotype datasets: converting to Zarr, opening, reading blocks of variants."""
