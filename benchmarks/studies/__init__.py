"""Studies of many seeds with exact staleness: see benchmarks.single_process."""
