"""The way to a server: keys that no header can hold and that nothing may quote, proxies that the environment names."""

import logging
import socket
import traceback

import httpx
import pytest
from running import composed, run
from streams import engine, event

from specexp.cli.credentials import refuse_arguments
from specexp.decoding.sampling import Sampling
from specexp.errors import UserError
from specexp.peers import connection
from specexp.peers.connection import client_of, key_in, proxy_for
from specexp.peers.endpoint import Endpoint, Refused

GREEDY = Sampling()
VARIABLES = [f"{name}_PROXY" for name in ("HTTP", "HTTPS", "ALL", "NO")]


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize("key", ["sk-a-long-secret\n", " sk-a-long-secret", "sk-a-long-secret\r\n", "\tsk-a-long-secret \u00a0"])
def test_what_is_around_a_key_is_no_part_of_it(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert Endpoint("http://there/v1")._client.headers["authorization"] == "Bearer sk-a-long-secret"
    with pytest.raises(UserError, match="holds the secret of the environment variable OPENAI_API_KEY") as caught:
        refuse_arguments(["method.model=sk-a-long-secret"])
    assert "long-secret" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-a\u2013secret", "sk-a\nsecret", "sk-a secret", "sk-a\rsecret", "sk-“a”-secret", "sk-a\x7fsecret", "sk-a\u200bsecret"])
@pytest.mark.parametrize("side", ["method", "baseline"])
def test_a_key_that_no_header_can_hold_is_refused_by_the_name_of_its_variable(monkeypatch, tmp_path, caplog, key, side):
    variable = {"method": "OPENAI_API_KEY", "baseline": "BASELINE_API_KEY"}[side]
    monkeypatch.setenv(variable, key)
    caplog.set_level("DEBUG")
    with pytest.raises(UserError, match=f"the key in {variable} holds a blank, a line end or a character beyond ASCII") as caught:
        run(composed("method=endpoint", "method.url=http://127.0.0.1:9/v1", "baseline.url=http://127.0.0.1:9/v1"), tmp_path)
    quoted = "".join(traceback.format_exception(caught.value)) + caplog.text + "".join(file.read_text() for file in tmp_path.rglob("*") if file.is_file())
    assert "secret" not in quoted.replace("_secret", "")


def test_no_key_is_none(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " \n")
    assert key_in("OPENAI_API_KEY") is None and "authorization" not in Endpoint("http://there/v1")._client.headers


def test_a_key_in_the_place_of_its_variables_name_is_not_quoted():
    with pytest.raises(UserError, match="method.api_key_env is no name of an environment variable") as caught:
        Endpoint("http://there/v1", api_key_env="sk-a-secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://me:secret@host:word/v1", "http://me:sec/secret@host/v1", "me:secret@host", "ftp://me:secret@host/v1", "http://me:secret@host/v1"])
def test_a_password_in_an_url_is_not_quoted(url):
    with pytest.raises(UserError, match="is no address of a server; give|put a key into OPENAI_API_KEY") as caught:
        Endpoint(url)
    assert "sec" not in "".join(traceback.format_exception(caught.value)).replace("specexp", "").replace("_secret", "")


@pytest.mark.parametrize("said", [
    lambda: httpx.Response(401, json={"error": {"message": "Incorrect API key provided: sk-a-secret."}}),
    lambda: httpx.Response(400, text="x" * 290 + " Bearer sk-a-secret"),
    lambda: httpx.Response(200, content=event({"error": "sk-a-secret is not allowed"})),
    lambda: httpx.Response(200, json={"you": "sent sk-a-secret"}),
])  # fmt: skip
def test_a_server_that_quotes_the_key_is_quoted_without_it(monkeypatch, said):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret")
    there = Endpoint("http://there/v1", model="m")
    there.__dict__["_client"] = httpx.Client(transport=httpx.MockTransport(lambda request: said()), base_url=there.url)
    with pytest.raises(Refused) as caught:
        there.complete("p", 9, (), False, GREEDY, 0)
    assert "secret" not in caught.value.message + str(caught.value) + str(caught.value.told(" to x")) and caught.value.url == there.url
    assert "secret" not in "".join(traceback.format_exception(caught.value))


def test_debug_logs_hold_no_key(monkeypatch, caplog):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-secret")
    logging.getLogger("httpcore").setLevel("DEBUG")
    caplog.set_level("DEBUG")
    with engine("steady") as place:
        there = Endpoint(place.url)
        there.connect()
        there.complete("p", 9, (), False, GREEDY, 0)
        there.close()
        assert place.asked[0][1]["Authorization"] == "Bearer sk-a-secret" and "secret" not in caplog.text


@pytest.mark.parametrize(("environment", "url", "found"), [
    ({}, "http://there/v1", None),
    ({"HTTP_PROXY": "http://proxy:3128"}, "http://there/v1", ("http://proxy:3128", "HTTP_PROXY")),
    ({"http_proxy": "proxy:3128"}, "http://there/v1", ("http://proxy:3128", "http_proxy")),
    ({"HTTP_PROXY": "http://proxy:3128"}, "https://there/v1", None),
    ({"HTTPS_PROXY": "http://me:password@proxy:3128", "HTTP_PROXY": "x"}, "https://there/v1", ("http://proxy:3128", "HTTPS_PROXY")),
    ({"ALL_PROXY": "http://proxy:1"}, "http://there/v1", ("http://proxy:1", "ALL_PROXY")),
    ({"ALL_PROXY": "socks://proxy:1"}, "http://there/v1", ("socks5://proxy:1", "ALL_PROXY")),
    ({"ALL_PROXY": "socks5h://proxy:1"}, "http://there/v1", ("socks5h://proxy:1", "ALL_PROXY")),
    *[({"ALL_PROXY": proxy, "HTTP_PROXY": proxy, "NO_PROXY": no}, url, None)
      for proxy in ("socks5://proxy:1", "socks://proxy:1", "nonsense://proxy", "http://[bad", "http://proxy:1")
      for no, url in (("there", "http://there/v1"), ("*", "http://there/v1"), ("a, 127.0.0.1", "http://127.0.0.1:8000/v1"), ("127.0.0.1:8000", "http://127.0.0.1:8000/v1"),
                      (".lan", "http://box.lan:8000/v1"), ("localhost,::1", "http://[::1]:8000/v1"))],
    ({"HTTP_PROXY": "http://proxy:1", "NO_PROXY": "127.0.0.1:9000"}, "http://127.0.0.1:8000/v1", ("http://proxy:1", "HTTP_PROXY")),
])  # fmt: skip
def test_the_environment_says_which_proxy_is_used(monkeypatch, environment, url, found):
    monkeypatch.setattr(connection, "find_spec", lambda name: name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxy = proxy_for(httpx.URL(url))
    assert (proxy and (proxy.place, proxy.variable)) == found
    if found is None:
        client_of(url, "NO_KEY", 1, 1.0).close()  # and none is opened in vain


@pytest.mark.parametrize(("variable", "value", "words"), [
    ("ALL_PROXY", "socks5://127.0.0.1:1", r"ALL_PROXY=socks5://127.0.0.1:1 takes the package socksio .pip install 'specexp\[socks\]' brings it.; or give ALL_PROXY"),
    ("all_proxy", "socks://me:password@127.0.0.1:1", "all_proxy=socks5://127.0.0.1:1 takes the package socksio"),
    ("HTTP_PROXY", "socks4://127.0.0.1:1", "HTTP_PROXY=socks4://127.0.0.1:1 is no proxy that can be used .http, https, socks5, socks5h."),
    ("HTTP_PROXY", "http://me:1/password@proxy:1", "the proxy that HTTP_PROXY names has no address that can be read; .* or put there into NO_PROXY"),
    ("HTTP_PROXY", "http://:1", "HTTP_PROXY=http://:1 is no proxy that can be used"),
    ("HTTP_PROXY", "http://me:password@host:port", "has no address that can be read"),
])  # fmt: skip
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(monkeypatch, variable, value, words):
    monkeypatch.setattr(connection, "find_spec", lambda name: None)
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError, match=words) as caught:
        Endpoint("http://there/v1")
    assert "password" not in "".join(traceback.format_exception(caught.value))


def closed_port():
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


def test_a_dead_proxy_is_not_told_as_a_dead_server(monkeypatch):
    with engine("steady") as place:
        proxy = f"http://me:password@127.0.0.1:{closed_port()}"
        monkeypatch.setenv("HTTP_PROXY", proxy)
        with pytest.raises(UserError, match=r"the proxy http://127.0.0.1:\d+, which HTTP_PROXY names, does not take requests to http.* put 127.0.0.1 into NO_PROXY") as caught:
            Endpoint(place.url).connect()
        assert "password" not in str(caught.value)
        with pytest.raises(Refused, match=r"ConnectError: .*, through the proxy http://127.0.0.1:\d+ that HTTP_PROXY names"):
            Endpoint(place.url, model="m").complete("p", 9, (), False, GREEDY, 0)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        assert served(place) == MODES_TEXT
        monkeypatch.delenv("NO_PROXY")
        monkeypatch.setenv("HTTP_PROXY", place.url.removesuffix("/v1"))  # a server that takes a proxy's requests
        assert served(place) == MODES_TEXT
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(UserError, match=r"nothing answers at http://127.0.0.1:\d+/v1 .*; start a server there"):
        Endpoint(place.url).connect()


def test_a_proxy_that_stands_between_is_named_where_no_model_is_listed(monkeypatch):
    there = Endpoint("http://there/v1")
    there.__dict__["_client"] = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(502)), base_url=there.url)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    with pytest.raises(UserError, match="lists no model .status 502, through the proxy http://proxy:3128 that HTTP_PROXY names."):
        there.connect()


def served(place):
    there = Endpoint(place.url)
    there.connect()
    return there.complete("p", 9, (), False, GREEDY, 0).text


MODES_TEXT = "".join(f"w{n} " for n in range(10))
