"""This room runs one job: every prompt is decoded by the method and its baselines, timed, scored and recorded."""
