"""What leaves the project: the forms a student is shipped in, how each is measured, and its model card."""
