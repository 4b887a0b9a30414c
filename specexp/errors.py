"""The one exception for what a user can put right: its text is a sentence that names the value and the way out.

The command line prints it without a traceback; everything else that is raised is a defect and keeps its traceback.
"""


class UserError(Exception):
    """Bad input: one sentence with the offending value and what to do about it."""
