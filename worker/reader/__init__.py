"""Reads the text out of one file, in a process of its own: whatever the file does to it, it does to nothing else."""
