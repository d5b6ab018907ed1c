"""Model families: check a folder, load, cut to layers, forward with the [CLS] state of every layer, save."""
