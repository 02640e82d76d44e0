"""HLMM by nothing approximated: the plain reference, and Gram matrices of genotype classes."""
