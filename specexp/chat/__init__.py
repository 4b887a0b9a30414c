"""The interactive console: it decodes each prompt by every enabled method and shows coloured text and figures."""
