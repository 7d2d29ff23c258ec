"""From the text of a graph to a `Graph`: files, layers, positions, keys, and what is printed from them. Knows nothing of running."""
