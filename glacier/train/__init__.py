"""Takes a store and a configuration, yields a run: checkpoints, history, metrics."""
