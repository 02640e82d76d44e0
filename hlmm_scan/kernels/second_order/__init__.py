"""HLMM on the shared eigenstructure, exact to second order."""
