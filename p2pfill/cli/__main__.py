"""`python -m p2pfill.cli`: the same as the command `p2pfill`, for when its script is not on the path."""

import sys

from p2pfill.cli import main

sys.exit(main())
