"""How fast this machine trains students: contestants in processes, their turns, and what came out."""
