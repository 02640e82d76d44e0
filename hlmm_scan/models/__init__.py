"""Heteroskedastic linear (mixed) models for one data set."""
