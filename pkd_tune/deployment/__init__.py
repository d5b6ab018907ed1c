"""Export of students: their formats, how each is measured, and the model card."""
