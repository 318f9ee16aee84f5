from __future__ import annotations

from pathlib import Path

import pytest

from mentorkd.web.security import is_loopback
from web_client import cross_site, web_client


def make_run(folder: Path) -> Path:
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "recipe.yaml").write_text("name: x\n")
    return folder


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:9", "127.0.0.1"])
def test_names_of_this_machine_are_answered(tmp_path: Path, host: str) -> None:
    assert web_client(tmp_path).get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", "", "[::1", "[zz]:8"]
)
def test_other_host_names_are_refused(tmp_path: Path, host: str) -> None:
    reply = web_client(tmp_path).get("/static/style.css", headers={"host": host})
    assert reply.status_code == 421
    assert "use the address that the command printed" in reply.text


def test_a_token_lets_in_once_by_the_address_and_then_by_its_cookie(tmp_path: Path) -> None:
    client = web_client(tmp_path, token="s3cret", host="0.0.0.0", base_url="http://box.lan:8000")
    assert client.get("/").status_code == client.get("/?token=wrong").status_code == 401
    elsewhere = client.get("http://box.lan:8000//evil.example/?token=s3cret").headers["location"]
    assert elsewhere == "/evil.example/"
    client.cookies.clear()
    let_in = client.get("/compare?run=a&token=s3cret&run=b")
    assert (let_in.status_code, let_in.headers["location"]) == (303, "/compare?run=a&run=b")
    assert client.get("/", headers={"host": "[::1"}).status_code == 421
    assert "HttpOnly" in let_in.headers["set-cookie"]
    assert client.get("/").status_code == 200
    assert client.get("/", headers={"cookie": "mentorkd-8000=wrong"}).status_code == 401


def test_a_bearer_token_lets_in(tmp_path: Path) -> None:
    client = web_client(tmp_path, token="s3cret", host="0.0.0.0")
    assert client.get("/", headers={"authorization": "Bearer s3cret"}).status_code == 200
    assert client.get("/", headers={"authorization": "Bearer no"}).status_code == 401


def test_every_answer_forbids_scripts_of_others_and_requests_elsewhere(tmp_path: Path) -> None:
    for path in ("/", "/nothing", "/static/keys.js", "/?format=json"):
        headers = web_client(tmp_path).get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert not [name for name in headers if name.startswith("access-control-")]


def test_a_form_of_another_site_is_refused(tmp_path: Path) -> None:
    client = web_client(make_run(tmp_path))
    url, fields = f"/run/{tmp_path.name}/run/ask?format=json", {"question": "1 + 1?"}
    token = cross_site(client)
    assert client.post(url, data=fields).status_code == 403
    assert client.post(url, data=fields | {"cross_site": "wrong"}).status_code == 403
    foreign = {"origin": "http://evil.example"}
    assert client.post(url, data=fields | {"cross_site": token}, headers=foreign).status_code == 403
    assert client.post(url, data=fields | {"cross_site": token}, headers={"origin": "http://["}).status_code == 403
    own = {"origin": "http://127.0.0.1:8000"}
    assert client.post(url, data=fields | {"cross_site": token}, headers=own).status_code != 403


def test_a_form_that_is_too_large_is_refused(tmp_path: Path) -> None:
    client = web_client(make_run(tmp_path))
    fields = {"question": "x" * (1 << 21), "cross_site": cross_site(client)}
    assert client.post(f"/run/{tmp_path.name}/run/ask", data=fields).status_code == 413


def test_loopback_addresses() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "box.lan")] == [False] * 4
