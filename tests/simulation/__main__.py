"""`python -m tests.simulation`: see `cli`."""

from tests.simulation.cli import main

main()
