"""What a result must beat: what knows nothing of faces and voices, and what is simpler than a search."""
