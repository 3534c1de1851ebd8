"""Losses that need no label: functions of tensors, and the estimates that they keep."""
