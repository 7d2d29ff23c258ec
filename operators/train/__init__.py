"""Training: of the embedded model, and of adapters."""
