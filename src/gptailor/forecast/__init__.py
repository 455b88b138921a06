"""What a search will cost, and what it cost."""
