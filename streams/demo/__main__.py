"""`python -m streams.demo`: see `streams.demo.run`."""

import sys

from streams.demo.run import main

sys.exit(main())
