"""Light clients for programs that subscribe to a running graph."""
