"""The search spaces shipped with pkd_tune: TOML data, read with importlib.resources, never executed."""
