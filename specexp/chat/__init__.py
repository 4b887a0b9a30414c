"""The interactive console: prompts in, coloured text and figures of every enabled method out."""
