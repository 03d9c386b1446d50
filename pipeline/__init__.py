"""Media in, scores out: one module per DVC stage."""
