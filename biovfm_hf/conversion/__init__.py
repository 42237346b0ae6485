"""Weight conversion: DINOv2, DINOv3, MAE, timm and transformers checkpoints to BioVFM model folders, and back."""
