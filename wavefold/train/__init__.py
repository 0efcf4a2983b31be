"""Training on one machine: corpus, batches, objective, quantization in the loop, optimizer, trainer, state."""
