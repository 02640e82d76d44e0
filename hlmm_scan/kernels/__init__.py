"""Blocks of variants in, arrays of estimates out."""
