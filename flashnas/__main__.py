"""`python -m flashnas`."""

import sys

from flashnas.cli.main import main

sys.exit(main())
