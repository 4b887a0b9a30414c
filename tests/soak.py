"""The jobs of the soak test, a run of many jobs one after another, and how many prompts it decodes."""



PROMPTS, PER_JOB = 2000, 40

ROTATION = (
    ("method=speculative", "dataset=microeval"),
    ("method=csd", "dataset=microsum"),
    ("method=tree", "dataset=microcopy"),
    ("method=prompt_lookup", "dataset=microsum", "sampling=nucleus"),
    ("method=medusa", "dataset=microeval", "cache=sink", "cache.max_length=128"),
    ("method=egag", "dataset=microsum", "sampling=multinomial"),
    ("method=staged", "dataset=microeval"),
    ("method=nasd", "dataset=microsum"),
    ("method=cost_model", "dataset=microcopy", "tracker=wandb", "tracker.mode=offline"),
    ("method=hf_assisted", "dataset=microsum"),
)

ROTATIONS = PROMPTS // (PER_JOB * len(ROTATION))
