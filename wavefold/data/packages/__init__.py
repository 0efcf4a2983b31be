"""Text of well-known packages from the package index: a list of archives, and how documents are made of them."""
