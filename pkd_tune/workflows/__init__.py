"""The jobs that commands and the Python API start, from checked options to a result on disk."""
