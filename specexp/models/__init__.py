"""This room loads models: whether one can be had, its weights, its tokenizer, a target and its drafts as a pair, and Medusa heads."""
