"""Published benchmarks, run by the stages of both packages as commands, and printed beside the published figures."""
