"""How one student is made. Knows nothing of Ray or Optuna."""
