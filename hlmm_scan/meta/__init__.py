"""Cohorts pooled: both effects with their covariance, and the calibrated tests.

Called, it is the public function.
"""

from hlmm_scan.called import is_called

is_called(__name__, "hlmm_scan.api.pooling")
