"""Stage `spectrograms`: windows, and their sound as spectrograms."""
