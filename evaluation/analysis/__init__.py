"""What records, layers, corpora and mixtures say beyond a score: scaling, layers, curation, composition."""
