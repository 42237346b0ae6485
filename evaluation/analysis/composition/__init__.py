"""Effect of the pretraining mixture on a score: designs of runs, fitted responses, and the recommended mixture."""
