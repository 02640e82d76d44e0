"""Cohorts are made by the module that the scripts make theirs with."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
