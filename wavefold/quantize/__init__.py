"""Fewer bits for a model's experts: GGUF files, importance of columns, mixed types under a budget, fewer experts.

source.py       the checkpoint that is read
importance.py   what a text says about experts, as a file
observe.py      the pass that measures it
mixed.py        types by measured loss under a budget
prune.py        which experts stay
metadata.py     GGUF's keys
export.py       the files that are written
"""
