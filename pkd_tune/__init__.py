"""Searches Patient Knowledge Distillation settings for shallow BERT students on GLUE."""

__version__ = "0.1.0"
