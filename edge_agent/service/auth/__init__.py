"""Who calls: access keys, and the signatures made with them."""
