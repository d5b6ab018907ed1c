"""What commands share: flag groups, messages on the terminal, exit codes, the summary at the end of a search."""
