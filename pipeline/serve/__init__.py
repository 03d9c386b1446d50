"""`bmnas serve`: a detector that answers over HTTP."""
