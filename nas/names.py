"""The operations by name, for whoever reads architectures and settings: without torch."""

OPERATIONS = ("Sum", "ScaledDotAttn", "LinearGLU", "ConcatFC", "CrossGate", "LowRankBilinear", "Synchrony")
DEFAULT_OPERATIONS = ("Sum", "ScaledDotAttn", "LinearGLU", "ConcatFC")
