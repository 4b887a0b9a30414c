"""The drafters: models, copies of the text itself, tables of counts, cascades of several models, trees and heads. They work on token ids
and runners, and know nothing of text or of what a cache holds."""
