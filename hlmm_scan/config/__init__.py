"""One scan as data: options from a YAML file and from flags, checked and composed.

An option is a field in the module of what it belongs to; its flag, its key in a file, its place in
the help and its checks follow from that (`declared`). `scan` composes them, `files` reads and
writes them.
"""

from hlmm_scan.config.declared import Group
from hlmm_scan.config.files import absolute, compose, load_config, to_yaml
from hlmm_scan.config.models import INFORMATION, METHODS
from hlmm_scan.config.scan import BACKGROUND_OPTIONS, GROUPS, ScanConfig
from hlmm_scan.config.variants import DEFAULT_MAX_MISSING, DEFAULT_MIN_MAC, DEFAULT_MIN_MAF

__all__ = [
    "BACKGROUND_OPTIONS",
    "DEFAULT_MAX_MISSING",
    "DEFAULT_MIN_MAC",
    "DEFAULT_MIN_MAF",
    "GROUPS",
    "INFORMATION",
    "METHODS",
    "Group",
    "ScanConfig",
    "absolute",
    "compose",
    "load_config",
    "to_yaml",
]
