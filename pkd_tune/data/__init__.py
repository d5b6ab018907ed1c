"""Data: the GLUE tasks, reading their examples, tokenised splits, metrics, significance and GLUE submissions."""
