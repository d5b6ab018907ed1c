"""Training speed of this machine: interleaved runs of a plain loop and of pkd_tune, and tables that compare them."""
