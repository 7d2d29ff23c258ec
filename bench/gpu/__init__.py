"""The parts of bench/gpu_live.py: what it measures with, the networks, and one module a phase or two."""
