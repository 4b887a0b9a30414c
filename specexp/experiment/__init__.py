"""One job: every prompt decoded by the method and its baselines, timed, scored and recorded."""
