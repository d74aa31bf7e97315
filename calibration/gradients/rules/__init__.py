"""The reverse rules of all operators, one file for each kind; `calibration.gradients.reverse` has the table of them.

`windows` is what `convolution` and `pooling` share.
"""
