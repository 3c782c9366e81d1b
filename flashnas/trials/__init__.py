"""What a search tries: trials, their objectives, and the front of them."""
