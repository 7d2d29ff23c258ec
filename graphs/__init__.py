"""The graphs that ship with the engine; `engine run demo` finds them here."""
