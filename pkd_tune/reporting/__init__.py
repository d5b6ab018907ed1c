"""Reports of runs, from their files alone: no Ray, no torch, no GPU."""
