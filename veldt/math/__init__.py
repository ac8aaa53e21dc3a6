"""The algorithms as pure functions, time-major: no state, no time, no processes."""
