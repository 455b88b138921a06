"""Search results published by others, converted to tailorings."""
