"""Mean and standard deviation that normalise pictures, for models trained on ImageNet and for ours."""

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Statistics of the red, green and blue values in [0, 1] of ImageNet's training pictures."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Their standard deviations."""
