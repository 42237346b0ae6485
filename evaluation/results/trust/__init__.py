"""How far scores can be trusted: when a model should abstain, sets that cover the true label, gaps between groups."""
