"""How far scores can be trusted: when a model should abstain, sets that cover the truth, and gaps between groups."""
