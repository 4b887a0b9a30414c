"""This room holds data sets: examples with their prompts, the score of one text, and the metrics of all. It knows no models and no
configuration.
"""
