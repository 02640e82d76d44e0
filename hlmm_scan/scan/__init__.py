"""The scan: a plan, its tasks, and where they run. Called, it is the public function."""

from hlmm_scan.called import is_called

is_called(__name__, "hlmm_scan.api.scanning")
