"""Pure functions of tables: what scores are worth."""
