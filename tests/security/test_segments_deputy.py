"""Nobody gets at memory through the agent that he could not get at himself."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, Tuple

import grpc
import pytest

from edge_agent.client.segment import FrameSegment
from edge_agent.config import load
from edge_agent.errors import InvalidConfiguration
from edge_agent.wire import edge_agent_v1_pb2 as wire
from tests.contract.calls import (
    FOLDER,
    INVALID_ARGUMENT,
    Caller,
    Segment,
    defective,
    plain,
    refused,
)
from tests.contract.generations import LAST
from tests.fakes.agent import Agent
from tests.faults.test_tcp import free_port
from tests.security.conftest import running
from tests.security.http2 import raw_call
from tests.security.users import GROUP, OWNER, STRANGER, TheirSegment, needs_root

FRAME = plain(255)
CONTENT = FRAME.tobytes()
UNTOUCHED = b"\xaa" * len(CONTENT)

# user, group and mode of what a member of the socket's group could read, or not
READABLE = {
    "the group's, 0660": (OWNER, GROUP.gr_gid, 0o660),
    "the group's, 0640": (OWNER, GROUP.gr_gid, 0o640),
    "everyone's, 0644": (OWNER, OWNER, 0o644),
    "everyone's, 0604": (OWNER, OWNER, 0o604),
    "the agent's user's, 0600": (0, 0, 0o600),
}
UNREADABLE = {
    "another user's, 0600": (OWNER, OWNER, 0o600),
    "another user's, 0660": (OWNER, OWNER, 0o660),
    "another user's, of the agent's group": (OWNER, 0, 0o660),
    "another user's, 0000": (OWNER, OWNER, 0o000),
    "the group's, 0600": (OWNER, GROUP.gr_gid, 0o600),
    "the group's, only to be written": (OWNER, GROUP.gr_gid, 0o620),
    "closed to the group alone": (OWNER, GROUP.gr_gid, 0o604),
}
WRITABLE = {
    "the group's, 0660": (OWNER, GROUP.gr_gid, 0o660),
    "everyone's, 0666": (OWNER, OWNER, 0o666),
    "the agent's user's, 0600": (0, 0, 0o600),
}
UNWRITABLE = {
    **UNREADABLE,
    "the group's, 0640": (OWNER, GROUP.gr_gid, 0o640),
    "everyone's, 0644": (OWNER, OWNER, 0o644),
    "everyone's, only to be written": (OWNER, OWNER, 0o602),
}

Owned = Tuple[int, int, int]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """Of this test's user, root or not; its socket has the group GROUP if it is root."""
    words = ["--set", f"server.socket_group={GROUP.gr_name}"] if os.geteuid() == 0 else []
    with running(Agent(tmp_path_factory.mktemp("agent"), *words)) as agent:
        yield agent


@pytest.fixture
def caller(agent: Agent) -> Iterator[Caller]:
    with agent.channel() as channel:
        yield Caller(channel)


def detect_by_stream(channel: grpc.Channel, bitmap: Any, mask: Any = None) -> Any:
    """Send one frame on a stream; return its answer."""
    request = LAST.DetectAnomaliesRequest(model_component="seg", bitmap=bitmap)
    if mask is not None:
        request.anomaly_mask_params.shared_memory_handle.CopyFrom(mask)
    message = wire.StreamDetectRequest(frame_id=1)
    message.request.ParseFromString(request.SerializeToString())
    call: Callable[..., Any] = channel.stream_stream(
        "/edge_agent.v1.Inspector/StreamDetect",
        request_serializer=wire.StreamDetectRequest.SerializeToString,
        response_deserializer=wire.StreamDetectResponse.FromString,
    )
    (answer,) = call(iter([message]), timeout=30)
    return answer


@needs_root
@pytest.mark.parametrize("kind", READABLE)
def test_a_frame_that_the_sockets_group_could_read_is_judged(caller: Caller, kind: str) -> None:
    with TheirSegment(CONTENT, *READABLE[kind]) as segment:
        assert caller.detect("cls", caller.shared(FRAME, segment)).is_anomalous


@needs_root
@pytest.mark.parametrize("kind", UNREADABLE)
def test_root_doesnt_read_for_a_caller_what_the_sockets_group_could_not(
    caller: Caller, kind: str
) -> None:
    with TheirSegment(CONTENT, *UNREADABLE[kind]) as segment:
        details = refused(INVALID_ARGUMENT, caller.detect, "cls", caller.shared(FRAME, segment))
        assert "isn't readable" in details
        assert "server.segment_access" in details
        assert "0660" in details


@needs_root
@pytest.mark.parametrize("kind", WRITABLE)
def test_a_mask_goes_where_the_sockets_group_could_write(caller: Caller, kind: str) -> None:
    with TheirSegment(UNTOUCHED, *WRITABLE[kind]) as segment:
        caller.detect("seg", FRAME, segment.handle(LAST, len(CONTENT)))
        assert segment.read() != UNTOUCHED


@needs_root
@pytest.mark.parametrize("kind", UNWRITABLE)
@pytest.mark.parametrize("frame", ["bytes", "the same segment", "another segment"])
def test_root_doesnt_write_for_a_caller_where_the_sockets_group_could_not(
    caller: Caller, kind: str, frame: str
) -> None:
    with TheirSegment(UNTOUCHED, *UNWRITABLE[kind]) as theirs, Segment(len(CONTENT)) as own:
        own.write(CONTENT)
        source: Dict[str, Any] = {
            "bytes": FRAME,
            "the same segment": caller.shared(FRAME, theirs),
            "another segment": caller.shared(FRAME, own),
        }
        handle = theirs.handle(LAST, len(CONTENT))
        details = refused(INVALID_ARGUMENT, caller.detect, "seg", source[frame], handle)
        assert "server.segment_access" in details
        assert theirs.read() == UNTOUCHED


@needs_root
@pytest.mark.parametrize("use", ["frame", "mask"])
def test_nor_does_a_stream_reach_a_segment_of_another_user(agent: Agent, use: str) -> None:
    with agent.channel() as channel, TheirSegment(UNTOUCHED, OWNER, OWNER, 0o600) as theirs:
        caller = Caller(channel)
        handle = theirs.handle(LAST, len(CONTENT))
        arguments = (
            (caller.shared(FRAME, theirs),) if use == "frame" else (caller.bitmap(FRAME), handle)
        )
        answer = detect_by_stream(channel, *arguments)
        assert "server.segment_access" in answer.failure.message
        assert theirs.read() == UNTOUCHED


@needs_root
@pytest.mark.parametrize(
    "close",
    [
        lambda segment: os.fchmod(segment.descriptor, 0o600),
        lambda segment: os.fchown(segment.descriptor, STRANGER, STRANGER),
    ],
    ids=["closed", "given away"],
)
def test_a_segment_that_was_open_once_is_judged_as_it_is_now(
    caller: Caller, close: Callable[[Segment], None]
) -> None:
    with TheirSegment(CONTENT, OWNER, GROUP.gr_gid, 0o660) as segment:
        bitmap = caller.shared(FRAME, segment)
        assert caller.detect("cls", bitmap).is_anomalous
        close(segment)
        assert "server.segment_access" in refused(INVALID_ARGUMENT, caller.detect, "cls", bitmap)


@needs_root
def test_the_mask_of_an_access_control_list_isnt_taken_for_the_groups_rights(
    caller: Caller,
) -> None:
    """One stranger was let in; the mode's bits for the group then show the list's mask."""
    with TheirSegment(CONTENT, OWNER, GROUP.gr_gid, 0o600) as segment:
        segment.let_in(STRANGER)
        assert segment.path.stat().st_mode & 0o777 == 0o660
        details = refused(INVALID_ARGUMENT, caller.detect, "cls", caller.shared(FRAME, segment))
        assert "access control list" in details


@needs_root
def test_a_setting_lets_root_use_every_segment(tmp_path: Path) -> None:
    agent = Agent(tmp_path, "--set", "server.segment_access=any")
    with TheirSegment(UNTOUCHED, OWNER, OWNER, 0o600) as theirs:
        with running(agent), agent.channel() as channel:
            Caller(channel).detect("seg", FRAME, theirs.handle(LAST, len(CONTENT)))
        assert theirs.read() != UNTOUCHED


@needs_root
@pytest.mark.parametrize(
    ("capability", "judges"), [(None, False), (1, True), (2, True), (3, False)]
)
def test_a_user_with_roots_capabilities_counts_as_root(capability: int, judges: bool) -> None:
    """1 and 2 are CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, 3 is CAP_FOWNER."""
    script = (
        "import ctypes, os, sys\n"
        "from edge_agent.runtime.vision.segment_access import has_root_rights\n"
        "libc, bits = ctypes.CDLL(None), 1 << int(sys.argv[1]) if sys.argv[1] else 0\n"
        "libc.prctl(8, 1, 0, 0, 0)\n"  # PR_SET_KEEPCAPS
        f"os.setresuid({OWNER}, {OWNER}, {OWNER})\n"
        "header = (ctypes.c_uint32 * 2)(0x20080522, 0)\n"
        "assert not libc.capset(header, (ctypes.c_uint32 * 6)(bits, bits, 0, 0, 0, 0))\n"
        "print(has_root_rights())\n"
    )
    word = "" if capability is None else str(capability)
    done = subprocess.run(
        [sys.executable, "-c", script, word], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == f"{judges}\n"


@needs_root
def test_the_python_clients_segment_belongs_to_the_sockets_group(agent: Agent) -> None:
    """So that it is open to an agent of root's rights, whatever the client's own group is."""
    segment = FrameSegment(len(CONTENT), agent.address)
    try:
        facts = (FOLDER / segment.handles(1)[0].name).stat()
    finally:
        segment.close()
    assert (facts.st_gid, facts.st_mode & 0o777) == (GROUP.gr_gid, 0o660)


@pytest.fixture(scope="module")
def on_tcp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    agent = Agent(tmp_path_factory.mktemp("tcp"), "--set", f"server.tcp={address}")
    with running(agent):
        yield address


@pytest.mark.parametrize("way", ["DetectAnomalies", "Inspect", "StreamDetect"])
@pytest.mark.parametrize("use", ["frame", "mask", "both"])
def test_a_caller_on_tcp_names_no_shared_memory(on_tcp: str, use: str, way: str) -> None:
    with grpc.insecure_channel(on_tcp) as channel, Segment(len(CONTENT)) as segment:
        segment.write(UNTOUCHED)
        caller, handle = Caller(channel), segment.handle(LAST, len(CONTENT))
        bitmap = caller.bitmap(FRAME) if use == "mask" else caller.shared(FRAME, segment)
        mask = None if use == "frame" else handle
        if way == "StreamDetect":
            details = detect_by_stream(channel, bitmap, mask).failure.message
        elif way == "Inspect":
            request = LAST.DetectAnomaliesRequest(model_component="seg", bitmap=bitmap)
            if mask is not None:
                request.anomaly_mask_params.shared_memory_handle.CopyFrom(mask)
            inspect: Callable[..., Any] = channel.unary_unary("/edge_agent.v1.Inspector/Inspect")
            details = refused(INVALID_ARGUMENT, inspect, request.SerializeToString(), timeout=30)
        else:
            details = refused(INVALID_ARGUMENT, caller.detect, "seg", bitmap, mask)
        assert "server.shared_memory_over_tcp" in details
        assert segment.read() == UNTOUCHED
        assert caller.detect("seg", FRAME).is_anomalous  # bytes are welcome


def test_a_caller_on_tcp_cant_find_out_which_segments_there_are(on_tcp: str) -> None:
    with grpc.insecure_channel(on_tcp) as channel, Segment(len(CONTENT)) as segment:
        caller, said = Caller(channel), set()
        for name in (segment.name, "edge-agent-test-nowhere"):
            handle = LAST.SharedMemoryHandle(name=name, size=len(CONTENT))
            bitmap = LAST.Bitmap(width=64, height=64, shared_memory_handle=handle)
            said.add(refused(INVALID_ARGUMENT, caller.detect, "cls", bitmap))
    assert len(said) == 1


def test_a_setting_lets_callers_on_tcp_name_shared_memory(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    words = [f"server.tcp={address}", "server.shared_memory_over_tcp=true"]
    agent = Agent(tmp_path, *[part for word in words for part in ("--set", word)])
    with running(agent), grpc.insecure_channel(address) as channel, Segment(
        len(CONTENT)
    ) as segment:
        segment.write(CONTENT)
        caller = Caller(channel)
        assert caller.detect("cls", caller.shared(FRAME, segment)).is_anomalous


@pytest.mark.parametrize("name", ["", "\0edge-agent-test"], ids=["unnamed", "abstract"])
def test_every_client_of_the_unix_socket_counts_as_local(agent: Agent, name: str) -> None:
    """gRPC writes the address of one that has bound itself to an abstract name another way."""
    with Segment(len(CONTENT)) as segment, socket.socket(socket.AF_UNIX) as client:
        segment.write(CONTENT)
        if name:
            client.bind(f"{name}-{uuid.uuid4().hex}")
        client.connect(str(agent.socket))
        bitmap = Caller(grpc.insecure_channel("unix:/nowhere")).shared(FRAME, segment)
        request = LAST.DetectAnomaliesRequest(model_component="cls", bitmap=bitmap)
        heard = raw_call(client, "DetectAnomalies", request.SerializeToString())
        assert b"server-timing" in heard  # goes with verdicts only


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "press-7.plant.example"])
def test_tcp_for_clients_without_certificates_is_asked_for_by_name(host: str) -> None:
    words = [f"server.tcp={host}:1", "server.tls_certificate=/c", "server.tls_key=/k"]
    with pytest.raises(InvalidConfiguration) as caught:
        load(None, {}, words)
    assert "tls_client_ca" in str(caught.value)
    assert "server.tcp_without_client_certificates" in str(caught.value)
    assert load(None, {}, [*words, "server.tls_client_ca=/a"]).server.tls_client_ca
    settings = load(None, {}, [*words, "server.tcp_without_client_certificates=true"])
    assert settings.server.tcp == f"{host}:1"


def test_on_the_loopback_address_tls_needs_no_certificates_of_clients() -> None:
    words = ["server.tcp=localhost:1", "server.tls_certificate=/c", "server.tls_key=/k"]
    assert load(None, {}, words).server.tcp == "localhost:1"


@pytest.mark.parametrize("use", ["frame", "mask"])
def test_a_second_name_of_a_file_is_no_segment(caller: Caller, use: str) -> None:
    path = FOLDER / f"edge-agent-test-{uuid.uuid4().hex}"
    other = path.with_name(f"{path.name}-other")
    other.write_bytes(UNTOUCHED)
    try:
        os.link(str(other), str(path))
        handle = LAST.SharedMemoryHandle(name=path.name, size=len(CONTENT))
        bitmap = LAST.Bitmap(width=64, height=64, shared_memory_handle=handle)
        arguments = (bitmap, None) if use == "frame" else (FRAME, handle)
        details = refused(INVALID_ARGUMENT, caller.detect, "seg", *arguments)
        assert "2 names" in details
        assert other.read_bytes() == UNTOUCHED
    finally:
        path.unlink()
        other.unlink()


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("kind", ["sem.", "edge-agent-results-"], ids=["semaphore", "old journal"])
def test_neither_semaphore_nor_journal_is_a_segment(caller: Caller, kind: str, slash: str) -> None:
    name = f"{kind}edge-agent-test-{uuid.uuid4().hex}"
    with Segment(len(CONTENT), name) as semaphore:
        semaphore.write(UNTOUCHED)
        handle = LAST.SharedMemoryHandle(name=slash + name, size=len(CONTENT))
        details = refused(INVALID_ARGUMENT, caller.detect, "seg", FRAME, handle)
        assert "isn't a name of a POSIX shared memory object" in details
        assert semaphore.read() == UNTOUCHED


@pytest.mark.parametrize("folder", ["edge-agent-test-folder/journal", "//journal", "./journal"])
def test_what_lies_in_a_folder_has_no_name_for_callers(caller: Caller, folder: str) -> None:
    handle = LAST.SharedMemoryHandle(name=folder, size=len(CONTENT))
    details = refused(INVALID_ARGUMENT, caller.detect, "seg", FRAME, handle)
    assert "isn't a name" in details


def test_a_name_of_a_megabyte_is_refused_in_a_short_sentence(caller: Caller) -> None:
    handle = LAST.SharedMemoryHandle(name="é" * 500_000, size=len(CONTENT))
    details = refused(INVALID_ARGUMENT, caller.detect, "seg", FRAME, handle)
    assert "at most 262144 are expected for names" in details
    short = LAST.SharedMemoryHandle(name="é" * 5_000, size=len(CONTENT))
    details = refused(INVALID_ARGUMENT, caller.detect, "seg", FRAME, short)
    assert "10000 bytes; at most 255" in details
    assert len(details) < 200


@needs_root
def test_a_file_of_elsewhere_mounted_into_the_folder_is_no_segment(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or ctypes.CDLL(None).prctl(23, 21, 0, 0, 0) != 1:
        pytest.skip("nobody can mount here")
    secret = tmp_path / "secret"
    secret.write_bytes(CONTENT)
    script = (
        "import sys\n"
        "from edge_agent.errors import InvalidFrame\n"
        "from edge_agent.runtime.vision.segments import Segments\n"
        "from edge_agent.types import SharedMemoryHandle\n"
        "try:\n"
        f"    Segments().open(SharedMemoryHandle(sys.argv[1], {len(CONTENT)}), False)\n"
        "except InvalidFrame as error:\n"
        "    print(error)\n"
    )
    with Segment(1) as segment:
        mount = f'mount --bind "{secret}" "{segment.path}" && exec "$0" -c "$1" {segment.name}'
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", mount, sys.executable, script],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    if done.returncode:
        pytest.skip(done.stderr)
    assert "isn't a shared memory object" in done.stdout


def test_a_frame_of_the_agents_own_user_is_used_whatever_the_agents_rights(
    caller: Caller,
) -> None:
    """Client components commonly run as the agent's user, with segments of mode 0600."""
    frame = defective()
    with Segment(2 * frame.nbytes, mode=0o600) as segment:
        segment.write(frame)
        handle = segment.handle(LAST, frame.nbytes, frame.nbytes)
        caller.detect("seg", caller.shared(frame, segment), handle)
        assert segment.read()[frame.nbytes :] == (
            caller.detect("seg", frame).anomaly_mask.byte_data
        )
