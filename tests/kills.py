"""How often runs and sweeps are killed."""



RUN_ROUNDS, SWEEP_ROUNDS = 16, 12  # kills that found the process at work
