"""The HTTP server: protocols that clients already speak, in front of a model."""
