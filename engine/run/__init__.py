"""A plan at work: nodes, queues, gates, lanes, the executors that drive them, and the way from one plan to the next.

To be read in this order. A frame's way:

    node        polled, begun, finished: the step function of every executor; `life` is its beginning and end, `work` one call of it
    side        the inputs that do not fire a node: exact, hold, latest, carry; `inputs` makes arguments of them
    emit        what a call returned, onto the edges; `hop` is the same for a plain node, in one go; `slide` for operators that answer later
    fault       what becomes of a call that failed
    channel     a queue and its policy, with markers for what will not come
    gate        the entrance: credits, the one slot, and the fate of every frame
    lane        nodes that run one after another; `device` is where they compute
    threads     a lane per thread, and the watchdog; `stall` names who waits for whom
    build       all of these from a plan

Beside it, each for itself: `inline` (one thread, simulated time: the oracle), `reloading` with `swap`, `handover` and `past` (from one plan to
another while frames fly), `process` with `shared` (operators in child processes), `ladder` (out of memory).
"""
