"""What is measured on finished runs, and the tables, figures and pages of it."""
