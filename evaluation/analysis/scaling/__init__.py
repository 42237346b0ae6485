"""The scaling study: power laws of score against model size, and their correlation with task properties."""
