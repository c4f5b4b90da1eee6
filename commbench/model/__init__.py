"""What is computed from a machine and a question alone, before or beside any measurement."""
