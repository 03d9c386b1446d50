"""The process that opens media files: it imports nothing heavy, and a copy of it reads each file and is gone.

`pipeline.media` starts it and talks to it; nothing else does.
"""
