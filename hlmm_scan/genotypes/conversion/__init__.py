"""Genotype files made into a Zarr dataset."""
