"""Many problems in one program: lanes, groups of unequal size, several starts."""
