"""This room measures how well a model predicts a given text under one cache or another."""
