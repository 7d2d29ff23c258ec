"""The report of a run: one HTML file with what it did, how long everything took, and how the pictures held together."""
