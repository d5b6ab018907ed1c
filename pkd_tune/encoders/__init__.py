"""Model families: check a model folder, load it, cut it to layers, run it with the [CLS] state of every layer, save it."""
