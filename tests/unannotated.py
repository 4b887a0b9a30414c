"""A method of a plugin that says nothing of its types."""


def plain(target, gamma=3):
    raise NotImplementedError
