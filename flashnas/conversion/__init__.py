"""Start from a pretrained model: read its weights, score what its layers may become, choose."""
