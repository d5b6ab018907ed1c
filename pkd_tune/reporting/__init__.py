"""What came out. Reads files only: no Ray, no torch, no GPU."""
