"""Who carries a collective out. One file a library; everything above is the same for all of them."""
