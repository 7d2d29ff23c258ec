"""The denoising loop: samplers as tables, full and short passes, rows side by side, and steps that are recorded."""
