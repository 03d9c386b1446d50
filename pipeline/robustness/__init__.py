"""How well a trained run holds when clips are compressed, blurred, noisy, out of step: `bmnas robustness`."""
