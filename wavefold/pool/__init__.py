"""Many models on one machine: what a folder holds, and which of it is in memory."""
