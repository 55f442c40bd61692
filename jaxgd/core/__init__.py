"""What is computed, and nothing of the host: the loss, the loop, its verdict.

Here and in `solvers`, params and all that goes with them, such as gradients and directions, are flat, of shape `(p,)`;
other numbers are of shape `()`. All are of the params' type, float32 or float64, also counts that are packed with them.
What says whether is a bool, any other count an int32.
"""
