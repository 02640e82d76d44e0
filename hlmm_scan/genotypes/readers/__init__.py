"""Readers of genotype files: one contract, a module for each container."""
