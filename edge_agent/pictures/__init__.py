"""Image files of people: which files of a folder are pictures, and one way to read them."""
