"""Experts over ranks: who has which, in which waves they work, how tokens travel. Report section 3.1."""
