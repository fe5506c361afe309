"""What holds wherever the buckets are."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import insert

from edge_agent.service.auth.access_keys import AccessKeys
from edge_agent.service.buckets.lines import MOST_LINE_BYTES
from edge_agent.service.buckets.names import S3Name
from edge_agent.service.buckets.opening import open_buckets
from edge_agent.service.faults import ValidationFailed
from edge_agent.service.records.database import Records
from edge_agent.service.records.schema import PROJECTS
from edge_agent.service.settings import BucketSettings
from tests.service.buckets.conftest import ALICE, BOB, Site

MIB = 1024 * 1024
KEY = "line 4/images/å é.jpg"


def test_an_object_is_read_as_it_was_put(site: Site) -> None:
    site.put("plant", KEY, b"content")
    assert site.buckets.read(ALICE, "plant", KEY, 7) == b"content"


def test_an_object_that_is_too_large_is_refused_with_its_size(site: Site) -> None:
    site.put("plant", "a.bin", b"12345678")
    with pytest.raises(ValidationFailed, match=r"s3://plant/a\.bin is too large: it has 8 bytes"):
        site.buckets.read(ALICE, "plant", "a.bin", 7)
    with pytest.raises(ValidationFailed, match="the most that is taken is 7"):
        list(site.buckets.lines(ALICE, "plant", "a.bin", 7))
    with pytest.raises(ValidationFailed, match="the most that is taken is 7"):
        site.buckets.fetch(ALICE, "plant", "a.bin", site.root, 7)


def test_lines_come_one_by_one_with_their_ends(site: Site) -> None:
    site.put("plant", "m", b"one\r\ntwo\n\nlast")
    assert list(site.buckets.lines(ALICE, "plant", "m", MIB)) == [
        b"one\r\n",
        b"two\n",
        b"\n",
        b"last",
    ]


def test_of_a_very_long_line_only_the_beginning_comes(site: Site) -> None:
    site.put("plant", "m", b"x" * (3 * MOST_LINE_BYTES) + b"\nshort\n")
    lines = list(site.buckets.lines(ALICE, "plant", "m", MIB))
    assert lines == [b"x" * MOST_LINE_BYTES, b"short\n"]


def test_an_object_is_fetched_as_a_file_with_its_ending(site: Site, tmp_path: Path) -> None:
    site.put("plant", "good/a.jpg", b"good")
    site.put("plant", "bad/a.jpg", b"bad")
    folder = tmp_path / "fetched"
    folder.mkdir()
    good = site.buckets.fetch(ALICE, "plant", "good/a.jpg", folder)
    bad = site.buckets.fetch(ALICE, "plant", "bad/a.jpg", folder)
    assert (good.read_bytes(), bad.read_bytes()) == (b"good", b"bad")
    assert good.suffix == bad.suffix == ".jpg"


def test_what_is_written_can_be_read_and_replaced(site: Site, tmp_path: Path) -> None:
    source = tmp_path / "source"
    for content in (b"first", b"second" * MIB, b""):
        source.write_bytes(content)
        site.buckets.write(ALICE, "plant", "out/of/training.json", source)
        assert site.get("plant", "out/of/training.json") == content


def test_a_place_is_tried_without_storing_anything(site: Site) -> None:
    site.buckets.check_writable(ALICE, "plant", "tried/deep/a.json")
    with pytest.raises(ValidationFailed, match="was not found"):
        site.buckets.read(ALICE, "plant", "tried/deep/a.json", MIB)
    assert not (site.root / "buckets" / "plant" / "tried").exists()
    with pytest.raises(ValidationFailed, match="The bucket nowhere was not found"):
        site.buckets.check_writable(ALICE, "nowhere", "a.json")


def test_an_object_is_removed_where_there_is_one(site: Site) -> None:
    site.put("plant", "gone.json", b"content")
    for _ in range(2):
        site.buckets.remove(ALICE, "plant", "gone.json")
        with pytest.raises(ValidationFailed, match="was not found"):
            site.buckets.read(ALICE, "plant", "gone.json", MIB)


def test_no_more_is_fetched_than_may_be(site: Site, tmp_path: Path) -> None:
    site.put("plant", "large.png", b"12345678")
    assert site.buckets.fetch(ALICE, "plant", "large.png", tmp_path, 8).read_bytes()
    with pytest.raises(ValidationFailed, match=r"s3://plant/large\.png is too large"):
        site.buckets.fetch(ALICE, "plant", "large.png", tmp_path, 7)


@pytest.mark.parametrize("key", ["nothing", "line", "line/", "line//b.jpg", "/line/b.jpg"])
def test_a_key_without_an_object_is_named_in_a_sentence(site: Site, key: str) -> None:
    site.put("plant", "line/a.jpg", b"content")
    with pytest.raises(ValidationFailed, match=r"^s3://plant/.* was not found\.|can't be used: "):
        site.buckets.read(ALICE, "plant", key, MIB)


@pytest.mark.parametrize("key", ["imgs//1.png", "/imgs/1.png", "//imgs///1.png", "/etc/passwd"])
def test_a_key_with_empty_parts_is_one_of_its_bucket(site: Site, tmp_path: Path, key: str) -> None:
    source = tmp_path / "source"
    source.write_bytes(key.encode())
    site.buckets.check_writable(ALICE, "plant", key)
    site.buckets.write(ALICE, "plant", key, source)
    assert site.buckets.read(ALICE, "plant", key, MIB) == key.encode()
    assert site.buckets.fetch(ALICE, "plant", key, tmp_path).read_bytes() == key.encode()
    stored = key if site.s3 is not None else "/".join(filter(None, key.split("/")))
    assert site.get("plant", stored) == key.encode()
    site.buckets.remove(ALICE, "plant", key)


def test_a_bucket_that_is_not_there_is_named(site: Site, tmp_path: Path) -> None:
    with pytest.raises(ValidationFailed, match="The bucket nowhere was not found"):
        site.buckets.read(ALICE, "nowhere", "key", MIB)
    with pytest.raises(ValidationFailed, match="The bucket nowhere was not found"):
        site.buckets.write(ALICE, "nowhere", "key", Path(__file__))


@pytest.mark.parametrize("is_named", [False, True])
def test_several_accounts_are_logged_once_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, is_named: bool
) -> None:
    with closing(Records(tmp_path / "records.db")) as records:
        for account in (ALICE, BOB):
            AccessKeys(records).add(account, 0.0)
        accounts = {"plant": (ALICE,)} if is_named else {}
        buckets = open_buckets(tmp_path, BucketSettings(accounts=accounts), records)
        assert len(caplog.messages) == (0 if is_named else 1)
        for _ in range(2):
            with pytest.raises(ValidationFailed):
                buckets.check(ALICE, "others")
    (said,) = caplog.messages
    assert said.startswith(f"There are 2 accounts: {ALICE}, {BOB}. A bucket is closed to each")


def test_a_project_that_closes_the_buckets_of_others_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "buckets" / "plant").mkdir(parents=True)
    with closing(Records(tmp_path / "records.db")) as records:
        AccessKeys(records).add(ALICE, 0.0)
        buckets = open_buckets(tmp_path, BucketSettings(), records)
        buckets.check(ALICE, "plant")
        assert caplog.messages == []
        project = {"account": "000000000000", "name": "a", "arn": "arn", "created": 0.0}
        with records.write() as transaction:
            transaction.connection.execute(insert(PROJECTS).values(**project))
        with pytest.raises(ValidationFailed):
            buckets.check(ALICE, "plant")
    (said,) = caplog.messages
    assert said.startswith(f"There are 2 accounts: 000000000000, {ALICE}.")


@pytest.mark.parametrize("bucket", ["alices", "Alices"])
def test_a_bucket_of_others_is_answered_like_one_that_is_not_there(site: Site, bucket: str) -> None:
    site.put("alices", "key", b"secret")
    assert site.buckets.read(ALICE, "alices", "key", MIB) == b"secret"
    site.buckets.check(ALICE, "alices")
    for use in (
        lambda: site.buckets.check(BOB, bucket),
        lambda: site.buckets.check_output(BOB, S3Name(bucket, "key")),
        lambda: site.buckets.read(BOB, bucket, "key", MIB),
        lambda: list(site.buckets.lines(BOB, bucket, "key", MIB)),
        lambda: site.buckets.fetch(BOB, bucket, "key", site.root),
        lambda: site.buckets.write(BOB, bucket, "key", Path(__file__)),
        lambda: site.buckets.check_writable(BOB, bucket, "key"),
        lambda: site.buckets.remove(BOB, bucket, "key"),
    ):
        with pytest.raises(ValidationFailed) as refused:
            use()
        assert str(refused.value) == (
            f"The bucket {bucket} was not found, or this account may not use it. "
            "Correct its name, make it, or name its accounts in the service's setting "
            "buckets.accounts."
        )
    assert site.get("alices", "key") == b"secret"


@pytest.mark.parametrize(
    "bucket", ["..", "...", "a/b", "ab", "", "x" * 64, "-ab", "a..b", "a\0b", "ab."]
)
def test_a_name_that_no_bucket_can_have_is_refused(site: Site, bucket: str) -> None:
    for use in (
        lambda: site.buckets.check(ALICE, bucket),
        lambda: site.buckets.read(ALICE, bucket, "key", MIB),
        lambda: site.buckets.write(ALICE, bucket, "key", Path(__file__)),
    ):
        with pytest.raises(ValidationFailed, match="can't be the name of a bucket"):
            use()


@pytest.mark.parametrize(
    "key",
    [
        "", "..", "../alices/key", "a/../../alices/key", "a/./b", "a//..//..//alices/key", "/",
        "a/", "a//", "//../alices/key",
        "a\0b", "\ud800", "x" * 1025, "x" * 256, ".edge-agent-part-0", "a/.edge-agent-part-1/b",
    ],
)  # fmt: skip
def test_a_key_that_could_lead_elsewhere_is_refused(site: Site, key: str) -> None:
    site.put("alices", "key", b"secret")
    for use in (
        lambda: site.buckets.check_output(BOB, S3Name("plant", key)),
        lambda: site.buckets.read(BOB, "plant", key, MIB),
        lambda: site.buckets.fetch(BOB, "plant", key, site.root),
        lambda: site.buckets.write(BOB, "plant", key, Path(__file__)),
        lambda: site.buckets.check_writable(BOB, "plant", key),
        lambda: site.buckets.remove(BOB, "plant", key),
    ):
        with pytest.raises(ValidationFailed, match=r"^s3://plant/.*can't be used: "):
            use()
    assert site.get("alices", "key") == b"secret"


@pytest.mark.parametrize("key", ["folders/new", "folders/old"])
def test_a_folder_is_stored_below_a_key(site: Site, tmp_path: Path, key: str) -> None:
    site.put("plant", "folders/old/kept", b"kept")
    for name in ("deep/one", "two"):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(name)

    site.buckets.write_folder(ALICE, S3Name("plant", key), tmp_path, ["two", "deep/one"], "1")

    assert site.get("plant", f"{key}/deep/one") == b"deep/one"
    assert site.get("plant", f"{key}/two") == b"two"
    assert site.get("plant", "folders/old/kept") == b"kept"
    with pytest.raises(ValidationFailed, match="alices was not found"):
        site.buckets.write_folder(BOB, S3Name("alices", key), tmp_path, ["two"], "1")


def test_a_bucket_of_no_account_is_closed_once_there_are_two(site: Site) -> None:
    uses = (
        lambda account: site.buckets.check(account, "plant"),
        lambda account: site.buckets.read(account, "plant", "key", MIB),
        lambda account: list(site.buckets.lines(account, "plant", "key", MIB)),
        lambda account: site.buckets.fetch(account, "plant", "key", site.root),
        lambda account: site.buckets.write(account, "plant", "written", Path(__file__)),
        lambda account: site.buckets.write_folder(
            account, S3Name("plant", f"w-{account}"), site.root, ["source"], "1"
        ),
    )
    site.put("plant", "key", b"content")
    (site.root / "source").write_bytes(b"content")
    with closing(Records(site.root / "records.db")) as records:
        keys = AccessKeys(records)
        keys.add(ALICE, 0.0)
        for use in uses:
            use(ALICE)
        bobs = keys.add(BOB, 0.0)
        for use in uses:
            for account in (ALICE, BOB):
                with pytest.raises(ValidationFailed, match=r"plant was not found, or this account"):
                    use(account)
        site.buckets.check(ALICE, "alices")
        keys.remove(bobs.id)
        site.buckets.check(ALICE, "plant")
        with pytest.raises(ValidationFailed):
            site.buckets.check(BOB, "plant")
