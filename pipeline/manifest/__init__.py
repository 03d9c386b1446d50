"""Stage `manifest`: what clips there are, their labels and splits; and what to know before they are used."""
