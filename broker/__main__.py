"""`python -m broker`: the same as the command `broker`."""

import sys

from broker.cli import main

sys.exit(main())
