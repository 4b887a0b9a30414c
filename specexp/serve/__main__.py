"""`specexp serve`: one pair and one method behind OpenAI's API.

This module reads the command line and the configuration; what is served is in service.py and app.py.
"""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import DictConfig

from specexp.cli.jobs import attempted, configured, launch, overrides
from specexp.errors import installed

MANUAL = """\
Serve a pair behind OpenAI's API: /v1/completions, /v1/chat/completions, /v1/models, /health, /metrics, /predict.

specexp serve                                       the small pair that ships, at http://127.0.0.1:8000/v1
specexp serve method=csd model_pair=llama13b_7b     any settings of `specexp run`
specexp serve server.port=8001 server.queue=16      where it listens, and how many requests may wait
SPECEXP_API_KEY=... specexp serve server.host=0.0.0.0   reachable from other machines, with a key

sampling, seed, max_new_tokens and ignore_eos are the defaults of requests that leave them out. A tokenizer without a chat template needs
chat_template=plain or chat_template=FILE. One request is decoded at a time, and users take turns.
--cfg job shows the whole configuration.
"""


@configured("serve")
def main(config: DictConfig) -> None:
    def work(build: Callable) -> None:
        installed("serve", "fastapi", "uvicorn", "prometheus_client")
        from specexp.cli.check import check
        from specexp.models.loading import set_threads

        check(config, overrides())
        set_threads(config.threads)
        from specexp.serve.server import serve

        serve(config, build)

    attempted(work, "stopped.")


def cli() -> None:
    launch(main, lambda: MANUAL, "serve")


if __name__ == "__main__":
    cli()
