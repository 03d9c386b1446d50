"""Stage `features`: frozen backbones, once, into the feature cache."""
