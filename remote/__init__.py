"""What people and programs hold while a graph runs: control verbs, their carriers, metrics, and the supervisor of several runs.

It depends on the engine and on nothing that the engine depends on; the engine's core never imports it, and the command line only when asked.
"""
