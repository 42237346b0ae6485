"""What results are compared by: published figures, corrected p-values and ranks."""
