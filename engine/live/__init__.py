"""A run seen and changed from outside: changes with receipts, ramps, knobs, health, summaries, records."""
