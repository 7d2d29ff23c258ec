"""A plan at work: nodes, queues, gates, lanes, the executors that drive them, and the way from one plan to the next."""
