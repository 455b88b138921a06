"""What makes layers fast on CPUs: attention, matrix products, memory allocation."""
