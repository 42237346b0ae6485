"""Weights in and out: DINOv2, MAE, timm and transformers checkpoints to BioVFM model folders, and back."""
