"""The operators that ship with the engine, one folder a family; the engine finds them by entry point."""
