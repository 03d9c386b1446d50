"""Synthetic talking-head clips, real and fake: a data set of any size that needs no download.

It lets everything run anywhere and puts load on the pipeline; it is no evidence of accuracy on real footage.
"""

from pipeline.synth.generate import generate

__all__ = ["generate"]
