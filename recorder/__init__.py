"""Runs in files: what a run was given and decided, in MCAP, and runs made again from it.

`Recorder` writes one while the run goes on, `read` opens it, `replay` runs it again and says whether the same came out.
Depends on engine only; engine/cli imports it when it is asked to record or to replay.
"""
