"""The settings of the agent: one frozen tree, read once at the edge.

Later sources win: defaults, configuration file (JSON), environment, command line. A setting is a
dotted path: `server.socket_mode` is {"server": {"socket_mode": ...}} in the file, --set
server.socket_mode=... on the command line, EDGE_AGENT_SERVER__SOCKET_MODE in the environment.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, Optional, Tuple, Type

from pydantic import Field, SecretStr, field_validator, model_validator
from typing_extensions import Annotated, Literal, get_args

from edge_agent.errors import InvalidConfiguration
from edge_agent.fields import Strict, WrongValue, groups_in, is_secret, read
from edge_agent.protocol import DEFAULT_SOCKET, UNIX_SCHEME
from edge_agent.setting_types import (
    LOOPBACK,
    FileMode,
    Port,
    SummaryTimes,
    Topic,
    UnixSocket,
    host_name,
    host_of,
    same_port,
)
from edge_agent.sources import (
    ENVIRONMENT_PREFIX,
    Tree,
    parsed,
    path_of,
    put,
    put_home,
    variable,
    variables,
)

log = logging.getLogger(__name__)

MIB = 1024 * 1024

Units = Annotated[int, Field(ge=1, le=64)]
Seconds = Annotated[float, Field(ge=0.0, le=86400.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Qos = Annotated[int, Field(ge=0, le=1)]
ProblemAction = Literal["report", "anomalous", "refuse"]
UnsureAnswer = Literal["threshold", "normal", "anomalous"]
Command = Literal["start", "stop", "describe", "set-threshold", "last-capture"]


class ServerSettings(Strict):
    """Where and to whom the agent listens."""

    socket: UnixSocket = DEFAULT_SOCKET
    socket_mode: FileMode = "0660"
    socket_owner: str = ""  # user name; empty: the agent's own
    socket_group: str = ""  # group name; empty: ggc_group where it exists
    tcp: Optional[Port] = None  # host:port; None: no TCP
    tls_certificate: Optional[Path] = None  # PEM chain
    tls_key: Optional[Path] = None  # PEM
    tls_client_ca: Optional[Path] = None  # PEM; clients must then show a certificate of it
    tcp_without_client_certificates: bool = False  # beyond this machine: every client is served
    shared_memory_over_tcp: bool = False  # callers on TCP may name shared memory of this machine
    # Which segments an agent with root's rights uses for its callers: those of its own user and
    # those open to the socket's group or to everyone, or any.
    segment_access: Literal["socket_group", "any"] = "socket_group"
    metrics: Optional[Port] = None  # host:port of the Prometheus endpoint; None: none
    memory_mib: Optional[Annotated[int, Field(ge=256)]] = None  # of all calls; None: a quarter of
    # what the process may use
    receive_within_s: Annotated[float, Field(gt=0.0, le=3600.0)] = 30.0  # a message, whole
    send_within_s: Annotated[float, Field(gt=0.0, le=3600.0)] = 30.0  # an answer, read
    connection_idle_s: Annotated[float, Field(gt=0.0, le=86400.0)] = 3600.0  # closed without a call
    operator_socket: Optional[UnixSocket] = None  # may start, stop
    operator_group: str = ""  # may use operator_socket; empty: the agent's own user only
    operator_certificates: Tuple[str, ...] = ()  # names of TCP clients who may start and stop
    stop_within_s: Annotated[float, Field(gt=0.0, le=60.0)] = 4.0

    @model_validator(mode="after")
    def _secure(self) -> ServerSettings:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together: set both or none")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key as well")
        if self.operator_certificates and not self.tls_client_ca:
            raise ValueError("operator_certificates needs tls_client_ca, which verifies them")
        if self.operator_socket == self.socket:
            raise ValueError("operator_socket must be another path than socket")
        if self.operator_group and self.operator_group == self.socket_group:
            raise ValueError("operator_group must be another group than socket_group")
        if self.tcp and self.metrics and same_port(self.tcp, self.metrics):
            raise ValueError(f"metrics must be on another port than tcp, which is {self.tcp}")
        host = host_of(self.tcp or "localhost:0")
        if host in LOOPBACK:
            return self
        if self.tls_certificate is None:
            raise ValueError(
                f"tcp on {host} needs tls_certificate and tls_key; plaintext only on localhost"
            )
        if not (self.tls_client_ca or self.tcp_without_client_certificates):
            raise ValueError(
                f"tcp on {host} needs tls_client_ca, so that clients must show a certificate; or "
                "set server.tcp_without_client_certificates to true to serve every client"
            )
        return self

    @property
    def socket_path(self) -> Path:
        """The socket as a file name."""
        return Path(self.socket[len(UNIX_SCHEME) :])


class ModelsSettings(Strict):
    """Which models there are, when they start, and what they may use."""

    folder: Optional[Path] = None  # every sub-folder or zip with a manifest is a model
    records: Optional[Path] = None  # models.d: one registration record (JSON) a model
    autostart: bool = False  # for models of `folder`; a record has its own
    rescan_every_s: Annotated[float, Field(ge=0.1, le=3600.0)] = 1.0
    resume: bool = False  # models that ran when the agent ended run again; component: true
    remove_after_s: Seconds = 10.0  # a model stays so long after its record or package was removed
    package_limit_mib: Annotated[int, Field(ge=1)] = 2048
    memory_limit_mib: Optional[Annotated[int, Field(ge=1)]] = None  # of the agent; None: no limit
    drain_within_s: Seconds = 30.0  # StopModel waits so long for calls in flight
    trusted_keys: Optional[Path] = None  # PEM, Ed25519 public keys; packages must be signed by one
    allow_unbound_signatures: bool = False  # of format 1, without component and version
    allow_downgrade: bool = False  # signed packages older than one that was served before
    thresholds: Dict[str, Fraction] = Field(default_factory=dict)  # by model


class EngineSettings(Strict):
    """How models are executed; a value set here wins over the manifest's."""

    backends: Tuple[Literal["tensorrt", "onnxruntime-cuda", "onnxruntime"], ...] = ()  # the first
    # that serves; empty: by the package's target and the machine
    wait_for_engine: bool = False  # TensorRT or nothing: STARTING until its engine is built
    cache: Optional[Path] = None  # folder of built engines; None: ~/.cache/edge-agent/engines
    cache_mib: Annotated[int, Field(ge=1)] = 4096
    build_within_s: Annotated[float, Field(gt=0.0, le=86400.0)] = 7200.0
    dla_core: Optional[Annotated[int, Field(ge=0, le=7)]] = None  # of Xavier, Orin
    threads: Annotated[int, Field(ge=0, le=256)] = 0  # of one inference unit; 0: cores / units
    min_inference_units: Optional[Units] = None  # of each model; None: the manifest's
    max_inference_units: Optional[Units] = None
    scale_up_after_s: Seconds = 3.0  # one unit more after so long a time of queueing
    scale_down_after_s: Seconds = 60.0  # one unit fewer after so long a time without need
    hang_after_s: Annotated[float, Field(gt=0.0, le=3600.0)] = (
        30.0  # an engine call that long hangs
    )
    queue_length: Annotated[int, Field(ge=1, le=10000)] = 256  # frames waiting for one model
    queue_mib: Annotated[int, Field(ge=1)] = 512  # of frames that came as bytes
    cpu_batches: bool = False  # batches on a CPU too; there a frame of a batch takes longer
    gather_ms: Annotated[float, Field(ge=0.0, le=100.0)] = 0.0  # an idle unit waits for more frames
    spinning: bool = False  # engine threads spin while idle: lower latency, a busy core
    memory_arena: bool = False  # keep freed memory: a little faster, grows to the peak

    @model_validator(mode="after")
    def _can_wait(self) -> EngineSettings:
        if self.wait_for_engine and self.backends and "tensorrt" not in self.backends:
            raise ValueError("wait_for_engine needs tensorrt in backends")
        return self


class CameraProblemSettings(Strict):
    """What is answered about a picture with a camera problem; one word stands for every kind.

    report: what the model says, and the problem beside it. anomalous: that it is anomalous, with
    confidence 1. refuse: an error.
    """

    black: ProblemAction = "anomalous"
    dark: ProblemAction = "anomalous"
    bright: ProblemAction = "anomalous"
    blank: ProblemAction = "anomalous"
    blurred: ProblemAction = "report"
    frozen: ProblemAction = "report"

    @model_validator(mode="before")
    @classmethod
    def _of_every_kind(cls, given: object) -> object:
        if not isinstance(given, str):
            return given
        if given not in get_args(ProblemAction):
            raise WrongValue(
                f"expected {', '.join(get_args(ProblemAction))}, or an object "
                f"with one of them for each kind ({', '.join(cls.model_fields)})"
            )
        return dict.fromkeys(cls.model_fields, given)


class DecisionSettings(Strict):
    """How verdicts are given, for all models; the rest is said by package and registration."""

    camera_problem: CameraProblemSettings = CameraProblemSettings()
    unsure: UnsureAnswer = "threshold"  # what callers hear of scores in a model's grey band


class OutboxSettings(Strict):
    """Results that are stored on disk until they are delivered."""

    limit_mib: Annotated[int, Field(ge=1)] = 256
    max_age_h: Annotated[float, Field(gt=0.0)] = 168.0
    commit_every_s: Annotated[float, Field(gt=0.0, le=60.0)] = 0.5  # a power cut loses that much
    drain_per_s: Annotated[float, Field(gt=0.0)] = 50.0  # of what piled up; live results go first
    tries: Annotated[int, Field(ge=1)] = 8  # of a message that alone doesn't pass


class GreengrassSettings(Strict):
    """Results through the nucleus: to AWS IoT Core, and to other components on the device."""

    topic: Optional[Topic] = None  # of AWS IoT Core; None: not published there
    local_topic: Optional[Topic] = None  # of local publish/subscribe
    qos: Qos = 1


class MqttSettings(Strict):
    """Results to AWS IoT Core or a plant's own broker, on a connection of the agent's own."""

    endpoint: Optional[str] = None  # host name; None: off
    port: Annotated[int, Field(ge=1, le=65535)] = 8883  # 443 of AWS IoT Core works as well (ALPN)
    certificate: Optional[Path] = None  # PEM, of the client
    key: Optional[Path] = None  # PEM
    ca: Optional[Path] = None  # PEM, of the broker; None: the system's
    pkcs11_library: Optional[Path] = None  # the key lies in a token instead of a file
    pkcs11_token: str = ""
    pkcs11_pin: SecretStr = SecretStr("")
    pkcs11_pin_file: Optional[Path] = None  # the PIN is its first line; instead of pkcs11_pin
    client_id: str = ""  # empty: the thing's name; on a Greengrass core THING-edge-agent
    topic: Topic = "edge-agent/{thing}/{model}/{kind}"
    state_topic: Topic = "edge-agent/{thing}/state"  # retained: online or, by last will, offline
    qos: Qos = 1
    qos_of_models: Dict[str, Qos] = Field(default_factory=dict)
    session_expiry_s: Annotated[int, Field(ge=0)] = 86400
    ack_within_s: Annotated[float, Field(gt=0.0, le=600.0)] = 15.0

    @model_validator(mode="after")
    def _whole(self) -> MqttSettings:
        if self.endpoint and self.key and self.pkcs11_library:
            raise ValueError("the key is either a file (key) or in a token (pkcs11_library)")
        if self.endpoint and (self.certificate is None) != (not (self.key or self.pkcs11_library)):
            raise ValueError("certificate and key (or pkcs11_library) belong together")
        if self.pkcs11_pin_file and self.pkcs11_pin.get_secret_value():
            raise ValueError("the PIN is either in pkcs11_pin or in pkcs11_pin_file; set one")
        return self

    @field_validator("endpoint")
    @classmethod
    def _host(cls, endpoint: Optional[str]) -> Optional[str]:
        return host_name(endpoint, "results.mqtt.port") if endpoint else endpoint


class CaptureSettings(Strict):
    """Frames kept for review and retraining."""

    folder: Optional[Path] = None  # None: none are kept
    quota_mib: Annotated[int, Field(ge=1)] = 1024
    anomalies: bool = True
    near_threshold: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05  # scores so close to it
    sample: Annotated[float, Field(ge=0.0, le=1.0)] = 0.001  # share of all other frames
    per_minute: Annotated[int, Field(ge=1)] = 30  # of each model
    format: Literal["png", "jpeg"] = "png"


class CommandsSettings(Strict):
    """Commands over MQTT. A requester is the last level of the topic; the broker's policy decides
    who may publish there. `allow` names each requester's commands: {"hmi": ["describe"]}.
    """  # noqa: D205

    topic: Topic = "edge-agent/{thing}/commands"  # .../REQUESTER
    response_topic: Topic = "edge-agent/{thing}/responses"  # .../REQUESTER
    allow: Dict[str, Tuple[Command, ...]] = Field(default_factory=dict)
    # How far from now the time of a command that changes something may be, earlier or later.
    expire_s: Annotated[float, Field(ge=1.0, le=3600.0)] = 30.0
    require_time: bool = True  # false: such commands may come without a time, whenever they come


class ResultsSettings(Strict):
    """Where verdicts go besides the answers."""

    folder: Optional[Path] = None  # outbox and counters; needed as soon as results go anywhere
    thing: str = ""  # empty: AWS_IOT_THING_NAME, else the host's name
    publish: Literal["all", "anomalies", "changes"] = "all"
    heartbeat_s: Seconds = 60.0  # besides anomalies or changes, a normal result so often; 0: none
    per_minute: Annotated[int, Field(ge=0)] = 0  # results of one model at most; 0: no limit
    summary: SummaryTimes = "hour"  # none; 06:00,14:00,22:00
    anomaly_rate_alarm: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    lines: str = ""  # JSON lines into this file, "-": standard output
    outbox: OutboxSettings = OutboxSettings()
    greengrass: GreengrassSettings = GreengrassSettings()
    mqtt: MqttSettings = MqttSettings()
    capture: CaptureSettings = CaptureSettings()
    commands: CommandsSettings = CommandsSettings()

    @property
    def go_somewhere(self) -> bool:
        """Whether any sink is set."""
        greengrass = self.greengrass.topic or self.greengrass.local_topic
        return bool(self.lines or self.mqtt.endpoint or greengrass)

    @model_validator(mode="after")
    def _has_folder(self) -> ResultsSettings:
        if self.go_somewhere and self.folder is None:
            raise ValueError(
                "folder must be set: results are stored there until they are delivered"
            )
        if self.commands.allow and not (self.mqtt.endpoint or self.greengrass.topic):
            raise ValueError("commands need mqtt.endpoint or greengrass.topic")
        return self


class UpdatesSettings(Strict):
    """When the nucleus may update components; classic asks, lite doesn't."""

    quiet_s: Seconds = 5.0  # no frame for so long: go ahead
    defer_at_most_s: Seconds = 600.0  # while frames come; then go ahead all the same


class Settings(Strict):
    """The whole tree."""

    server: ServerSettings = ServerSettings()
    models: ModelsSettings = ModelsSettings()
    engine: EngineSettings = EngineSettings()
    decision: DecisionSettings = DecisionSettings()
    results: ResultsSettings = ResultsSettings()
    updates: UpdatesSettings = UpdatesSettings()
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @model_validator(mode="after")
    def _can_resume(self) -> Settings:
        if self.models.resume and self.results.folder is None:
            raise ValueError("models.resume needs results.folder: which models run is stored there")
        return self


def load(
    file: Optional[Path], environment: Mapping[str, str], assignments: Iterable[str] = ()
) -> Settings:
    """Merge the sources. Raises InvalidConfiguration with a sentence for each wrong setting."""
    tree = from_file(file) if file else {}
    return build(tree, environment, assignments, str(file) if file else "")


def build(
    tree: Tree, environment: Mapping[str, str], assignments: Iterable[str] = (), origin: str = ""
) -> Settings:
    """Make settings of `tree`, which is changed; environment and assignments win. Raises as `load`.

    "5" and "true" count as numbers and booleans. `origin` names where the tree is from, for people.
    """
    given_by: Dict[Tuple[str, ...], str] = {(): origin} if origin else {}
    for name in variables(Settings, environment):
        path = path_of(name)
        put(Settings, tree, path, environment[name], name, given_by)
        given_by[tuple(path)] = f"{name} in the environment"
    for assignment in assignments:
        path = _assigned(assignment)
        source = f"--set {'.'.join(path)}"
        put(Settings, tree, path, assignment.partition("=")[2], source, given_by)
        given_by[tuple(path)] = source
    put_home(Settings, tree)
    try:
        return read(Settings, tree, given_by)
    except ValueError as error:
        raise InvalidConfiguration(f"Configuration: {error}") from None


def _assigned(assignment: str) -> List[str]:
    """Return the path that --set names. Raises InvalidConfiguration; secrets are refused."""
    name, equals, value = assignment.partition("=")
    if not equals:  # the rest may be a secret
        raise InvalidConfiguration(
            f"--set {re.split('[^a-z0-9_.]', assignment)[0]}...: expected NAME=VALUE"
        )
    given: Tree = {}
    put(Settings, given, name.split("."), value, f"--set {name}")
    for secret in secret_names(given):
        raise InvalidConfiguration(
            f"--set {secret}: every user of this device can read a command line. Set it in a "
            f"file (results.mqtt.pkcs11_pin_file) or in the environment ({variable(secret)})."
        )
    return name.split(".")


def from_file(file: Path) -> Tree:
    """Read a settings file (JSON) as it is. Raises InvalidConfiguration."""
    try:
        with file.open("rb") as opened:
            content, mode = opened.read(MIB + 1), os.fstat(opened.fileno()).st_mode
    except OSError as error:
        raise InvalidConfiguration(f"Configuration file {file}: {error.strerror}.") from None
    if len(content) > MIB:
        raise InvalidConfiguration(f"Configuration file {file} has over {MIB} bytes.")
    tree = parsed(content, f"Configuration file {file}")
    if not isinstance(tree, dict):
        raise InvalidConfiguration(f"Configuration file {file} must hold one JSON object.")
    for name in secret_names(tree):
        if mode & 0o007:
            log.warning(
                "%s contains the secret %s, and other users can read it: chmod o= %s",
                file,
                name,
                file,
            )
    return tree


def secret_names(tree: object, kind: Type[Strict] = Settings, path: str = "") -> List[str]:
    """Return the dotted names of the secrets that are set in a tree of settings, right or wrong."""
    found: List[str] = []
    for key, value in tree.items() if isinstance(tree, dict) else ():
        field = kind.model_fields.get(key)
        if field is not None and value not in ("", None):
            if is_secret(kind, [key]):
                found.append(path + key)
            for group in groups_in(field.annotation):
                found += secret_names(value, group, f"{path}{key}.")
    return found


def without_secrets(environment: Mapping[str, str]) -> Dict[str, str]:
    """Return the environment for a child process: without our secrets and the nucleus's token."""
    return {name: value for name, value in environment.items() if not _holds_secret(name, value)}


def _holds_secret(name: str, value: str) -> bool:
    if name == "SVCUID":
        return True
    if not name.startswith(ENVIRONMENT_PREFIX):
        return False
    given: Tree = {}
    with suppress(InvalidConfiguration):
        put(Settings, given, path_of(name), value, name)
    return bool(secret_names(given))
