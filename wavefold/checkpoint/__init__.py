"""Checkpoints in the official layout: files (reading), load, save, and random ones for tests and benches."""

from wavefold.checkpoint.load import load
from wavefold.checkpoint.random import random_checkpoint, random_model
from wavefold.checkpoint.save import save

__all__ = ["load", "random_checkpoint", "random_model", "save"]
