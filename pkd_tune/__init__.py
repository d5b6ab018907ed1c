"""Searches Patient Knowledge Distillation settings for shallow BERT students on GLUE."""

import os

__version__ = "0.1.0"

# Read when torch is first imported. Threads that spin while they wait for each other are a hundred times slower when
# another program takes one of their cores; with this they sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
