"""The source model: training, statistics, and the files that hold them."""
