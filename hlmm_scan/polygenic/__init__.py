"""Polygenic backgrounds: stacked ridge, leaving chromosomes out. Called, the public function."""

from hlmm_scan.called import is_called

is_called(__name__, "hlmm_scan.api.background")
