"""What the data is: the GLUE tasks, their files and their tokenised form."""
