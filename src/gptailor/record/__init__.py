"""The record of a run on disk: its entries, the journal that writes them, and their reader."""
