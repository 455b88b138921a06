"""How candidates are proposed: the space of tailorings and the searchers that walk it.

Searchers know tailorings, trials and losses; never weights, files or the clock. Given one seed and
one history of trials they propose the same, so a stopped study goes on by replaying its record.
"""
