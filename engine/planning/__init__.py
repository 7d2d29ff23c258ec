"""From a `Graph` to a `Plan`, and what the plan will cost: wiring, policies, conversions, work and memory. Runs no operator."""
