"""How the mixture of pretraining data decides a score: designs of runs, fitted responses, and the best mixture."""
