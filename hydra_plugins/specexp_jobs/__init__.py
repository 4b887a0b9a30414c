"""What Hydra finds only below this namespace: the project's own sweeper, and where the configurations of plugins lie."""
