"""The tables and figures of the two papers: a recipe for each, its runs, and our numbers beside the printed ones."""
