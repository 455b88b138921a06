"""The plain data that everything else is written in: tailorings, trials, metrics, merge specs."""
