"""The service API of Lookout for Vision on your own machine; needs CPython 3.10 or newer."""
