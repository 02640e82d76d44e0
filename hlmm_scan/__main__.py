"""``python -m hlmm_scan``: the same as the command ``hlmm-scan``."""

import sys

from hlmm_scan.cli import main

sys.exit(main())
