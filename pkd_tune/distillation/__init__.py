"""Training of one model: losses, layer maps, teacher and its outputs, training loop, checkpoints; no Ray, no Optuna."""
