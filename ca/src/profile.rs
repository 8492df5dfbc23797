//! Every X.509 field of root, intermediate and leaf.
