"""``python -m tfrec_limaml``: the same as ``limaml``."""

import sys

from tfrec_limaml.cli import main

sys.exit(main())
