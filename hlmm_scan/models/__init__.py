"""Heteroskedastic linear (mixed) models for one data set."""

from hlmm_scan.models.fit import Fit
from hlmm_scan.models.hlm import HLM
from hlmm_scan.models.hlmm import HLMM

__all__ = ["HLM", "HLMM", "Fit"]
