"""Media in, scores out: a folder a part; docs/files.md says where each stage is."""
