"""Questions about real functions whose answers a program checks: rewrites, and errors with their remedy."""
