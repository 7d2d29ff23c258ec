"""The modules of a model: where they are, what they weigh, how they are loaded and kept."""
