"""What runs say about each other: scores, intervals, tables."""
