"""Methods: each says where to look next, and learns from what is found there."""
