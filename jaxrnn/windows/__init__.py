"""Gradients of long sequences, window by window: truncated, or exact."""
