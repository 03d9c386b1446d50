"""`make gpu`: what holds and how fast it is on a GPU, in under eight minutes, with nothing to download.

`parts.py` says what is run; each part is a process of its own, so that one that fails or hangs costs itself only.
Without a GPU everything runs on the CPU, in small: a dry run, which measures nothing. `record.py` is the format of what
is written, `page.py` renders it into docs/gpu.md, `wheels.py` carries what a machine without network lacks.
"""
