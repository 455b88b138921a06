"""What is measured: tasks as token ids, and how answers to them become metrics.

Imports nothing heavy: `harness` alone knows lm-eval and imports it when a task is loaded, and
`divergence` alone knows torch.
"""
