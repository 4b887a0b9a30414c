"""How often the tests kill runs and sweeps."""



RUN_ROUNDS, SWEEP_ROUNDS = 16, 12  # only kills that came while the process was working count
