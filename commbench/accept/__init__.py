"""Whether a cluster is fit for work, and what is at fault where it is not. Pure: rows in, a verdict out."""
