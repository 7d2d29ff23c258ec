"""`engine serve`: one engine process per stream, under a supervisor. What is to be served, when to start again, how each one is."""
