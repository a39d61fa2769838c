"""`python -m flows.cli` is `modkernel`."""

from flows.cli import main

main()
