"""From what a user gives to a compiled program."""
