"""Search and retraining of bimodal fusion networks over cached features. Tensors in, plain objects out."""
