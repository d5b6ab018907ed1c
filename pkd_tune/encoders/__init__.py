"""Encoder families: check a model folder, load, cut to layers, run with the [CLS] state of every layer, save."""
