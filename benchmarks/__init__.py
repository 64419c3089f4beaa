"""Measure what a start costs, next to the alternatives: `python -m benchmarks`, or `make bench`.

Nothing here has a time limit, and nothing fails for being slow. Machines differ, and other programs use them at the
same time. So what counts are ratios of medians, from runs that took turns.
"""
