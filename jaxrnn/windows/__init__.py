"""Gradients of long sequences, window by window; which of them is exact, and at what cost."""
