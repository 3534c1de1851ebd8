"""Test-time adaptation of video models by what they hear.  Imports nothing of `pipeline`."""
