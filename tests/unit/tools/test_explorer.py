"""The explorer on a real chain: every page, every path parameter given wrong, search, live events, a node that is gone."""

import asyncio
import csv
import io
import json
import re
from html.parser import HTMLParser

import httpx
import pytest

from genesis.cast import NEURONS
from ledger.client.calls import Wallet
from ledger.client.keys import ELLIPSIS, decode_address, encode_address, keys_named
from ledger.client.registry import methods
from ledger.codec import pack_u16
from ledger.commitments import weights_commitment
from ledger.errors import NotFound, Pruned, RateLimited, Timeout, Unreachable
from tests.harness import Market, run
from tools.cli.main import NOUNS
from tools.explorer.app import CSP, bounded_server, build_app
from tools.explorer.live import QUEUED_EVENTS, Live
from tools.explorer.pages import PAGES
from tools.rpc.methods import NodeApi

HEIGHT = 32  # the epoch that ends at 30 pays by revealed weights
HONEST, CABAL = {3: 40_000, 4: 20_000, 5: 5_000}, {3: 3_000, 5: 65_535}
ROOT = b"\x33" * 32
FRESH = "0x" + "44" * 32  # a key that no chain has seen
WRONG = {
    400: (
        "/block/abc", "/block/-1", "/block/1e3", "/block/0xzz", "/block/0x12", "/block/%D9%A1", "/block/" + "9" * 19,
        "/block/%00", "/tx/zz", "/tx/0x12", "/tx/" + "0" * 63, "/account/abc", "/account/0x12", "/account/" + "q" * 49,
        "/account/0x" + "zz" * 32, "/account/{validator}?after=zz", "/subnet/abc", "/subnet/-1", "/subnet/1.5",
        "/subnet/1?sort=nothing", "/neuron/1/x", "/neuron/x/1", "/neuron/1/-1", "/epoch/1/abc", "/epoch/x/1", "/epoch/1/-1",
        "/epoch/1/" + "9" * 18, "/blocks?before=abc", "/blocks?before=-4", "/events?after=zz", "/search", "/search?q=",
        "/search?q=" + "x" * 201,
    ),
    404: (
        "/block/99999", "/block/0x" + "00" * 32, "/tx/0x" + "00" * 32, "/account/" + FRESH, "/subnet/9", "/subnet/70000",
        "/subnet/" + "9" * 18, "/neuron/1/99", "/neuron/9/0", "/neuron/1/" + "9" * 18, "/epoch/1/999", "/epoch/9/latest",
        "/events?kind=Nothing", "/search?q=nobody-at-all", "/nothing", "/block", "/block/1/2", "/block/99999.json",
        "/neuron/1/4.csv", "/static/nothing", "/static/../app.py", "/static/%2e%2e/app.py", "/.json",
    ),
}
GOOD = (
    "/", "/blocks", "/blocks?before=5", "/block/head", "/block/1", f"/block/{HEIGHT}", "/block/{block}", "/block/{hash}",
    "/tx/{tx}", "/account/{owner}", "/account/{validator}", "/subnets", "/subnet/0", "/subnet/1", "/subnet/2",
    "/subnet/1?sort=incentive", "/neuron/1/0", "/neuron/1/4", "/neuron/1/8", "/epoch/1/latest", "/epoch/1/0",
    "/epoch/2/1", "/authorities", "/governance", "/account/{judge}", "/account/{leaving}", "/account/{authority}",
    "/tx/{proposal}", "/events", "/events?kind=EpochRan", "/ask",
)
PLAIN = ("/healthz", "/static/style.css", "/static/live.js")
FORMS = (
    "/index.json", "/block/1.json", "/subnet/1.json", "/epoch/1/latest.json", "/neuron/1/4.json", "/authorities.json",
    "/governance.json", "/governance.csv", "/account/{judge}.json", "/authorities.csv",
    "/blocks.csv", "/subnets.csv", "/subnet/1.csv", "/epoch/1/1.csv", "/events.csv",
)
SEARCHED = (
    "{block}", "%23{block}", "{hash}", "{tx}", "{owner}", FRESH, "1/4", "english", "ENGLISH", "engl", "records", "%20code%20",
)


@pytest.fixture(scope="module")
def site():
    """What the pages answered in one short life of a chain: {path: response}."""
    return run(_life())


async def _life():
    async with Market(authorities=1, block_time_ms=250) as market:
        api = NodeApi(market.nodes[0], market.spec, "9.9", lambda: None)
        await market.reach(1)
        done = await Wallet(api, market.account("owner", "")).submit(
            "accounts.transfer", to=market.account("neuron", "log").public, amount_rao=5 * 10**9, keep_alive=True
        )
        await _play(market, api)
        proposal = await _govern(market, api)
        await market.reach(HEIGHT)
        block = await api.chain_get_block(done.height)
        names = {
            "block": done.height, "hash": "0x" + block.header.hash.hex(), "tx": "0x" + done.id.hex(),
            "validator": encode_address(_hotkey(market, "validator", "0").public),
            "owner": encode_address(market.account("owner", "").public), "proposal": "0x" + proposal.hex(),
            "judge": encode_address(market.account("validator", "0").public),
            "leaving": encode_address(market.account("neuron", "dna").public),
            "authority": encode_address(market.account("authority", "0").public),
        }
        searches = [f"/search?q={text}" for text in SEARCHED]
        transport = httpx.ASGITransport(app=build_app(api, gateway="http://127.0.0.1:1"))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = {"names": names, "api": api}
            for path in (*GOOD, *FORMS, *searches, *WRONG[400], *WRONG[404], *PLAIN):  # files last: threads take time
                answers[path] = await client.get(path.format(**names))
            answers["down"] = await client.get("/ask?q=hello")
            answers["post"] = await client.post("/blocks")
        answers["trace"] = await api.epoch_explain(1, 1)
        answers["live"] = await _watch(api, market)
        return answers


def _hotkey(market, role, name):
    return next(m.hotkey for m in market.members if (m.role, m.name) == (role, name))


async def _play(market, api):
    """Two neurons announce themselves; three validators commit in epoch 0 and reveal in epoch 1, one of them for its miner."""
    genesis = market.genesis.genesis_hash
    for index, name in enumerate(("code", "english")):
        record = [bytes([127, 0, 0, 1]), 9950 + index, b"", b"\x22" * 32]
        await Wallet(api, _hotkey(market, "neuron", name)).submit("serving.serve", netuid=1, record=record, wait="pool")
    keys = [_hotkey(market, "validator", str(i)) for i in range(3)]
    wallets = [Wallet(api, key) for key in keys]
    rows = [HONEST, HONEST, CABAL]
    for wallet, row in zip(wallets, rows, strict=True):
        commitment = weights_commitment(genesis, wallet.key.public, 1, 0, list(row), list(row.values()), 0, bytes(32))
        await wallet.submit("weights.commit", netuid=1, hash=commitment, wait="pool")
    await market.reach(16)
    for wallet, row in zip(wallets, rows, strict=True):
        uids, values = pack_u16(list(row)), pack_u16(list(row.values()))
        await wallet.submit("weights.reveal", netuid=1, uids=uids, values=values, salt=bytes(32), version_key=0)
    await wallets[0].submit("serving.commit_receipts", netuid=1, epoch=0, root=ROOT, count=7)


async def _govern(market, api):
    """A proposal that runs, one that is open, and what accounts can say and arrange; the id of the open one."""
    judges = [Wallet(api, market.account("validator", str(index))) for index in range(3)]
    seats = [_hotkey(market, "validator", str(index)).public for index in range(3)]
    owner, leaving = Wallet(api, market.account("owner", "")), Wallet(api, market.account("neuron", "dna"))
    fee = [112, ["fee_base_rao", 1001]]
    await judges[0].submit("governance.propose", hotkey=seats[0], call=fee)
    for index in range(2):
        await judges[index].submit("governance.vote", hotkey=seats[index], number=0, aye=True, wait="pool")
    opened = await judges[1].submit("governance.propose", hotkey=seats[1], call=[120, [[fee, [113, [1, "tempo", 20]]]]])
    await judges[2].submit("governance.vote", hotkey=seats[2], number=1, aye=False, wait="pool")
    said = ["<b>Ada</b>", "https://ada.example", "counts", b"\x01" * 32]
    await judges[0].submit("identities.set", identity=said, wait="pool")
    await judges[0].submit("proxies.add", delegate=owner.key.public, kind=1, delay_blocks=5, wait="pool")
    await judges[0].submit("children.set", hotkey=seats[0], netuid=1, children=[[1 << 62, seats[1]]], wait="pool")
    await judges[1].submit("children.set_take", hotkey=seats[1], netuid=1, take=655, wait="pool")
    await owner.submit("subnets.set_identity", netuid=1, identity=["Prose", "", "texts", "next-byte", b""], wait="pool")
    await leaving.submit("keyring.announce_coldkey_swap", new_hash=b"\x07" * 32)
    await owner.submit("proxies.announce", real=judges[0].key.public, call_hash=b"\x08" * 32)
    return opened.id


async def _watch(api, market):
    """Two open pages; their first events."""
    renderer_calls = []

    async def draw():
        renderer_calls.append(1)
        return {"head": str((await api.system_health()).height)}

    live = Live(api, draw)
    pages = [live.stream(), live.stream()]
    seen = [[await anext(page) for _ in range(3)] for page in pages]
    height = market.nodes[0].chain.head.height
    for page in pages:
        await page.aclose()
    return seen, len(renderer_calls), height, len(live._tasks)


class Tables(HTMLParser):
    """Headings of tables without a scope, and whether a page has its language and landmarks."""

    def __init__(self, text):
        super().__init__()
        self.unscoped, self.tags, self.links = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        if tag == "th" and given.get("scope") not in ("row", "col"):
            self.unscoped.append(self.getpos())
        self.links += [value for name, value in attributes if name in ("href", "src", "action")]
        assert "style" not in given and not any(name.startswith("on") for name in given), given


def html(site):
    answers = {path: value for path, value in site.items() if isinstance(value, httpx.Response)}
    return {path: r for path, r in answers.items() if "text/html" in r.headers.get("content-type", "")}


def ok(site):
    return {path: r for path, r in html(site).items() if r.status_code == 200}


def test_every_page_answers_with_the_security_headers(site):
    pages = ok(site)
    assert pages.keys() == set(GOOD)
    for path, response in pages.items():
        assert response.headers["content-security-policy"] == CSP, path
        assert response.headers["x-content-type-options"] == "nosniff"
    served = {pattern for pattern in (page.path for page in PAGES) if any(_matches(pattern, path, site) for path in pages)}
    assert served == {page.path for page in PAGES}


def _matches(pattern, path, site):
    regex = re.sub(r"\\{[a-z]+\\}", "[^/?]+", re.escape(pattern))
    return re.fullmatch(regex, path.split("?")[0].format(**site["names"])) is not None


def test_pages_are_whole_documents_with_scoped_headings_and_nothing_from_outside(site):
    for path, response in html(site).items():
        page = Tables(response.text)
        assert not page.unscoped, path
        assert {"main", "h1", "header", "nav", "footer"} <= set(page.tags) and page.tags.count("h1") == 1, path
        assert '<html lang="en">' in response.text
        assert not [link for link in page.links if link and "//" in link], path
        assert "Undefined" not in response.text and "None<" not in response.text, path


@pytest.mark.parametrize("status", sorted(WRONG))
def test_what_is_wrong_or_unknown_gets_a_page_that_says_so(site, status):
    for path in WRONG[status]:
        response = site[path]
        assert response.status_code == status, (path, response.text[:300])
        if response.headers["content-type"] == "application/json":
            assert response.json()["error"]["cause"], path
        else:
            assert "<h1>" in response.text and 'href="/subnets"' in response.text, path
            assert "Traceback" not in response.text and "<p></p>" not in response.text, path


def test_what_the_visitor_typed_is_escaped(site):
    api = site["api"]
    typed = "<script>alert(1)</script>"
    paths = [f"/block/{typed}", f"/search?q={typed}", f"/ask?q={typed}", f"/account/{typed}", f"/{typed}", f"/epoch/1/{typed}"]

    async def visit():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=build_app(api)), base_url="http://test") as client:
            return [await client.get(path) for path in paths]

    for response in asyncio.run(visit()):
        assert typed not in response.text and "<script>alert" not in response.text, response.text[:500]


def test_a_search_finds_heights_hashes_ids_addresses_names_and_uids(site):
    names = site["names"]
    found = {path.removeprefix("/search?q="): r for path, r in site.items() if path.startswith("/search?q=")}
    targets = {key: r.headers["location"] for key, r in found.items() if r.status_code == 303}
    assert targets == {
        "{block}": f"/block/{names['block']}", "%23{block}": f"/block/{names['block']}", "{hash}": f"/block/{names['block']}",
        "{tx}": f"/tx/{names['tx']}", "{owner}": f"/account/{names['owner']}",
        FRESH: "/account/" + encode_address(bytes.fromhex(FRESH[2:])), "1/4": "/neuron/1/4", "english": "/neuron/1/4",
        "ENGLISH": "/neuron/1/4", "engl": "/neuron/1/4", "records": "/subnet/2", "%20code%20": "/neuron/1/3",
    }


def test_the_epoch_page_shows_the_cut_first_and_pays_to_the_last_unit(site):
    text, trace = site["/epoch/1/latest"].text, site["trace"].trace
    paid = trace["paid"]
    total = sum(int(v) for pot in ("server_rao", "validator_rao", "root_rao") for v in paid[pot]) + int(paid["owner_rao"])
    steps = [text.index(f'<section id="{name}">') for name in
             ("stake", "weights", "clipping", "incentive", "bonds", "dividends", "pay")]
    assert steps == sorted(steps)
    cut = text[text.index('class="cuts"') : steps[0]]
    assert "✂" in cut and "validator-2" in cut and "uniname" in cut and "0.956" in cut and "0.077" in cut
    whole, part = divmod(total, 10**9)
    assert text.count(f"{whole}.{part:09d}".rstrip("0")) >= 2
    assert "0.333 × 0.615" in text  # the arithmetic of code's support
    assert "No validator has revealed weights yet" in site["/epoch/1/0"].text
    assert "the miners&#39; pot waits" in site["/epoch/1/0"].text or "the miners' pot waits" in site["/epoch/1/0"].text


def test_the_subnet_page_tells_roles_weights_and_receipt_roots(site):
    text = site["/subnet/1"].text
    found = re.findall(r'(<tr><td>\d+</td><th scope="row"><a href="/neuron/1/\d+">([\w-]+)</a>.*?</tr>)', text)
    rows = {name: row for row, name in found}
    judges = {"validator-0", "validator-1", "validator-2"}
    assert set(rows) == {"gateway", *judges, *(name for name, netuids in NEURONS.items() if 1 in netuids)}
    roles = {name: re.search(r"</th><td>(?:<abbr[^>]*>)?([^<(]+)", row)[1].strip() for name, row in rows.items()}
    assert roles["validator-0"] == "validator" and roles["english"] == "miner" and roles["gateway"] == roles["log"] == "–"
    assert "0x" + ROOT.hex() in text and ">7</td>" in text
    assert "neither answers nor judges" in site["/neuron/1/8"].text


def test_keys_are_shortened_as_the_command_line_takes_them(site):
    owner = site["names"]["owner"]
    short = re.search(r'title="' + owner + r'">(?:<b>[^<]*</b> )?<code>([^<]*)</code>', site["/tx/{tx}"].text)[1]
    assert short.endswith(ELLIPSIS) and owner.startswith(short[:-1]) and keys_named(short, [decode_address(owner), ROOT]) == [
        decode_address(owner)
    ]


def test_blocks_link_to_their_neighbours_only_where_there_are_any(site):
    assert 'href="/block/0"' not in site["/block/1"].text and 'href="/block/2"' in site["/block/1"].text
    head = site["/block/head"].text
    assert "this is the head" in head and f'href="/block/{HEIGHT - 1}"' in head and f'href="/block/{HEIGHT + 1}"' not in head
    assert f"Block {HEIGHT} · Quorix" in head


def test_a_block_is_shown_long_after_its_state_is_gone(site):
    class OldState:
        """The node once the states of all but the head are pruned."""

        def __getattr__(self, name):
            async def read(*args):
                if name == "chain_get_authorities" and args:
                    raise Pruned("the state of that block is gone")
                return await getattr(site["api"], name)(*args)

            return read

    async def visit():
        transport = httpx.ASGITransport(app=build_app(OldState()))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/block/2")

    page = asyncio.run(visit())
    assert page.status_code == 200 and "✓ signed" in page.text


def test_pages_are_also_json_and_tables_csv(site):
    assert site["/epoch/1/latest.json"].json()["epoch"] == 1
    parts = {"subnet", "identity", "challenge", "relations", "metagraph", "parameters", "receipt_roots"}
    assert set(site["/subnet/1.json"].json()) == parts
    assert site["/index.json"].json()["health"]["height"] >= HEIGHT
    rows = list(csv.DictReader(io.StringIO(site["/epoch/1/1.csv"].text)))
    trace = site["trace"].trace
    assert [int(row["paid_rao"]) for row in rows] == [
        sum(int(trace["paid"][pot][uid]) for pot in ("server_rao", "validator_rao", "root_rao")) for uid in range(len(rows))
    ]
    assert site["/subnets.csv"].headers["content-type"].startswith("text/csv")


def test_the_other_ways_that_a_page_names_exist(site):
    wire = set(methods())
    for page in PAGES:
        rpc, cli, python = page.snippet
        assert rpc.split()[0] in wire, rpc
        assert not cli or (cli.startswith("quorix ") and cli.split()[1] in NOUNS), cli
        assert re.match(r"await api\.(\w+)\(", python)[1] in {method.name for method in methods().values()}, python
    assert "await api.epoch_explain(1, 1)" in site["/epoch/1/latest"].text
    assert "quorix query block 1<" in site["/block/1"].text


def test_live_pages_share_one_drawing_a_block_and_stop_with_the_last_page(site):
    seen, drawings, height, tasks = site["live"]
    for events in seen:
        assert events[0].startswith(b"retry:")
        heights = [int(json.loads(event.split(b"data: ")[1])["head"]) for event in events[1:]]
        assert heights == sorted(set(heights)) and heights[-1] <= height
    assert drawings <= 5 and tasks == 0


def test_a_page_that_reads_slowly_gets_the_newest_events():
    live = Live(None, None)
    queue = asyncio.Queue(QUEUED_EVENTS)
    live._pages.add(queue)
    for number in range(10):
        live._send("head", {"n": str(number)})
    kept = [json.loads(queue.get_nowait().split(b"data: ")[1])["n"] for _ in range(queue.qsize())]
    assert kept == ["6", "7", "8", "9"]


class Failing:
    """A node whose every method fails."""

    def __init__(self, error):
        self.error = error

    def __getattr__(self, name):
        async def fail(*args, **kwargs):
            raise self.error

        return fail


@pytest.mark.parametrize(("error", "status"), [
    (Unreachable("http://127.0.0.1:1 does not answer"), 503), (Timeout("too slow"), 504), (Pruned("state 5 is gone"), 410),
    (RateLimited("slow down"), 429), (NotFound("nothing"), 404), (KeyError("bug"), 500),
])
async def test_a_node_that_fails_gives_a_friendly_page_with_the_right_status(error, status):
    transport = httpx.ASGITransport(app=build_app(Failing(error)), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/", "/block/5", "/account/" + FRESH, "/subnet/1", "/search?q=english"):
            response = await client.get(path)
            assert response.status_code == status, path
            assert "<h1>" in response.text and 'href="/blocks"' in response.text
            if isinstance(error, Pruned):
                assert "No longer kept" in response.text and "archive node" in response.text
        assert (await client.get("/healthz")).json() == {"ok": True}


async def test_while_the_node_is_gone_live_pages_are_told():
    class Gone:
        def chain_subscribe_new_heads(self):
            return self

        def __aiter__(self):
            return self

        async def __anext__(self):
            raise Unreachable("nobody answers")

    page = Live(Gone(), None).stream()
    assert [await anext(page), await anext(page)][1].startswith(b'event: trouble\ndata: {"cause": "nobody answers')
    await page.aclose()


async def test_only_known_host_names_are_served():
    transport = httpx.ASGITransport(app=build_app(Failing(NotFound("x")), hosts=frozenset({"127.0.0.1", "[::1]"})))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/", "/live", "/search?q=1"):
            assert (await client.get(path, headers={"host": "evil.example:9940"})).status_code == 403
        for host in ("127.0.0.1:9940", "127.0.0.1", "[::1]:9940"):
            assert (await client.get("/", headers={"host": host})).status_code == 404


def test_the_gateway_may_be_down(site):
    assert site["down"].status_code == 503 and "neurons may still be starting" in site["down"].text
    assert site["post"].status_code == 405


def test_the_governance_page_shows_votes_what_is_needed_and_how_others_ended(site):
    text = site["/governance"].text
    assert "1 open proposal at block" in text and "✗ nay" in text and "governance.set_subnet_param" in text and "33.3 %" in text
    assert "✓ executed" in text and "governance.set_global_param" in text and "No upgrade is scheduled" in text
    rows = list(csv.reader(io.StringIO(site["/governance.csv"].text)))
    assert rows[0][0] == "number" and rows[1][:3] == ["1", "voting", "keyring.batch"]
    assert site["/governance.json"].json()["open"]["value"][0]["proposed"]["call"] == "keyring.batch"
    assert "governance.set_subnet_param" in site["/tx/{proposal}"].text


def test_the_account_page_tells_what_an_account_says_gave_away_and_announced(site):
    text = site["/account/{judge}"].text
    assert "&lt;b&gt;Ada&lt;/b&gt;" in text and "<b>Ada" not in text and "nobody has checked it" in text
    assert "stake.add" in text and "Announced by proxies" in text and "0x" + "08" * 32 in text
    assert "will lend to" in site["/account/{validator}"].text and "25.0 %" in site["/account/{validator}"].text
    assert "A swap is announced" in site["/account/{leaving}"].text
    assert "Bond of an authority" in site["/account/{authority}"].text
    assert site["/account/{judge}.json"].json()["proxies"]["proxies"][0]["kind"] == "staking"
    assert "next-byte" in site["/subnet/1"].text and "100" in site["/authorities"].text


async def test_a_head_that_drips_ends_and_others_are_served(monkeypatch):
    monkeypatch.setattr("ledger.client.bounded_http.HEAD_SECONDS", 0.2)
    server = bounded_server(None, "127.0.0.1", 0)
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(5):
            while not server.started:
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nhost: ")
            async with httpx.AsyncClient() as http:
                assert (await http.get(f"http://127.0.0.1:{port}/healthz")).json() == {"ok": True}
                assert (await http.get(f"http://127.0.0.1:{port}/", headers={"host": "evil.example"})).status_code == 403
            assert await reader.read() == b""
            writer.close()
    finally:
        server.should_exit = server.force_exit = True
        await serving
