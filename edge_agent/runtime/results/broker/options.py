"""The agent's settings → the options of the AWS IoT SDK's MQTT 5 client.

The SDK's own builder isn't used: it offers no TLS without a client certificate.
"""

from __future__ import annotations

import math
import random
from typing import Optional

from edge_agent.config import MqttSettings
from edge_agent.runtime.results import topics
from edge_agent.runtime.results.broker import probe
from edge_agent.runtime.results.broker.sdk import ClientOptions, PublishPacket, Sdk

KEEP_ALIVE_S = 30
PING_WITHIN_S = 10
CONNACK_WITHIN_S = 10
RETRY_S = (1, 60)  # least and most between two attempts to connect


def client_options(
    sdk: Sdk, settings: MqttSettings, client_id: str, will: Optional[PublishPacket]
) -> ClientOptions:
    """Build ClientOptions without callbacks. Raises what the SDK raises for files it can't use.

    Without a `will` none is published when the connection is lost.
    """
    mqtt5 = sdk.mqtt5
    flow = mqtt5.ExtendedValidationAndFlowControlOptions
    options: ClientOptions = mqtt5.ClientOptions(
        host_name=probe.host(settings),
        port=settings.port,
        tls_ctx=_tls(sdk, settings) if probe.is_encrypted(settings) else None,
        connect_options=mqtt5.ConnectPacket(
            client_id=client_id,
            keep_alive_interval_sec=KEEP_ALIVE_S,
            session_expiry_interval_sec=settings.session_expiry_s,
            will=will,
        ),
        # Always: what other clients sent while this process was away must arrive.
        session_behavior=mqtt5.ClientSessionBehaviorType.REJOIN_ALWAYS,
        # Nothing waits in the client: the outbox sends again what hasn't arrived.
        offline_queue_behavior=mqtt5.ClientOperationQueueBehaviorType.FAIL_ALL_ON_DISCONNECT,
        # The defaults of AWS IoT allow 100 messages/s, far less than other brokers take.
        extended_validation_and_flow_control_options=(
            flow.AWS_IOT_CORE_DEFAULTS if topics.at_aws(str(settings.endpoint)) else flow.NONE
        ),
        # The SDK's own jitter may try twice within milliseconds; a random first delay spreads a
        # fleet as well.
        retry_jitter_mode=mqtt5.ExponentialBackoffJitterMode.NONE,
        min_reconnect_delay_ms=int(1000 * RETRY_S[0] * random.uniform(1.0, 2.0)),
        max_reconnect_delay_ms=1000 * RETRY_S[1],
        ping_timeout_ms=1000 * PING_WITHIN_S,
        connack_timeout_ms=1000 * CONNACK_WITHIN_S,
        ack_timeout_sec=math.ceil(settings.ack_within_s),
    )
    # The SDK's metrics in the user name are switched off; the name depends on its release.
    for name, off in (("disable_metrics", True), ("enable_metrics", False)):
        if hasattr(options, name):
            setattr(options, name, off)
    return options


def _tls(sdk: Sdk, settings: MqttSettings) -> object:
    kinds, texts = sdk.io.TlsContextOptions, probe.tls_texts(settings)
    if settings.pkcs11_library:
        options = kinds.create_client_with_mtls_pkcs11(
            pkcs11_lib=sdk.io.Pkcs11Lib(file=str(settings.pkcs11_library)),
            user_pin=probe.pin(settings) or None,
            token_label=settings.pkcs11_token or None,
            cert_file_contents=texts.certificates.decode(),
        )
    elif settings.certificate:
        options = kinds.create_client_with_mtls(texts.certificates, texts.key)
    else:
        options = kinds()
    if texts.authorities:
        options.override_default_trust_store(texts.authorities)
    if settings.port == 443:
        options.alpn_list = [probe.AWS_ALPN]
    context: object = sdk.io.ClientTlsContext(options)
    return context
