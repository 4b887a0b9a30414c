"""Token trees: shapes that are fixed before anything is drawn, trees that grow where the draft is sure, and staged growth."""
