"""A tokenizer whose tokens are single characters."""



class Letters:
    """One character per id."""

    def decode(self, ids, **_):
        return "".join(chr(i) for i in ids)

    def convert_ids_to_tokens(self, token):
        return chr(token)


def ids(text):
    return [ord(c) for c in text]
