"""The Hub: calls that are made again, and what need not be asked."""
