"""A scaling study from its file: models are pretrained, probed and analysed; finished work is not repeated."""
