"""Pure functions of records: acceptance, speed, intervals, cost."""
