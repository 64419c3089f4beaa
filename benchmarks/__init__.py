"""What a start costs, measured beside what else could be run: `python -m benchmarks`, or `make bench`.

Nothing here has a time limit, and nothing fails for being slow. Machines differ and other programs use them at
the same time, so what counts are ratios: of medians, from runs that took turns.
"""
