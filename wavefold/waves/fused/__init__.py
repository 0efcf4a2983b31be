"""Experts over ranks as one kernel a rank: its tables, the check of what they say, the layer that runs them."""
