"""Measurements behind the published figures: each prints a table and appends JSON lines (`wavefold bench`)."""
