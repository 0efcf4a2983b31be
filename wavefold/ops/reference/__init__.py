"""Plain torch: the meaning of each op, in a few lines, on any device."""
