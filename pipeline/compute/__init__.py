"""Where work runs: worker processes, progress bars, the machine."""
