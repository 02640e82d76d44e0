"""Pictures of a scan, and the page that shows them. Called, it is the public function."""

from importlib.util import find_spec

from hlmm_scan.called import is_called
from hlmm_scan.errors import InputError

if any(find_spec(name) is None for name in ("jinja2", "matplotlib")):
    raise InputError("pictures and reports need more libraries: pip install 'hlmm-scan[report]'")

is_called(__name__, "hlmm_scan.api.results")
