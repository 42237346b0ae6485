"""The scaling study: power laws of score against model size, and which task properties go with steep ones."""
