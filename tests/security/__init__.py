"""Attacks: from the next process, the next user, the network, a package, a broker."""
