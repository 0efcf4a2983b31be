"""Training on one machine: corpus, batches, objective, quantisation in the loop, optimizer, trainer, state."""
