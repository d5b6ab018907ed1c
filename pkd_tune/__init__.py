"""Searches Patient Knowledge Distillation settings for shallow BERT students on GLUE."""

import gc
import os

__version__ = "0.1.0"

# Read when torch is first imported. Threads that spin while they wait for each other are a hundred times slower when
# another program takes one of their cores; with this they sleep.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Importing torch, transformers and Ray makes a million objects that stay. Looking for garbage among them as often as
# Python does by itself is a tenth of the start of every process.
gc.set_threshold(100_000, 50, 50)
