"""`python -m pipeline.cli`: the command line of the code in this folder, whatever is installed."""

from pipeline.cli import main

main()
