"""How many students are tried. The only room that imports Ray or Optuna."""
