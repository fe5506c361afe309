"""One StreamDetect call: frames are read, judged side by side, answered in the order they came."""

from __future__ import annotations

import threading
import time
from collections import deque
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Callable, Deque, Dict, Iterator, List, NamedTuple, Optional, Tuple

import grpc

from edge_agent import protocol
from edge_agent.errors import AgentUnavailable, CallsTakeTooMuch, InvalidRequest
from edge_agent.runtime.rpc import convert, metadata, status, zero_copy
from edge_agent.runtime.rpc.admission import SENT_COPIES
from edge_agent.runtime.rpc.call_context import CallContext, parse
from edge_agent.runtime.rpc.frame_calls import FrameCalls
from edge_agent.runtime.rpc.handler_threads import HandlerThreads, waited_s
from edge_agent.runtime.rpc.memory_budget import Lease, MemoryBudget
from edge_agent.wire import edge_agent_v1_pb2 as wire

PARSED_COPIES = 2  # of a frame: in its message, and its pixels
ANSWERS_AT_ONCE = 1024  # not read by the client yet; beyond it no frame is read

Answer = wire.StreamDetectResponse


class StreamedFrame(NamedTuple):
    """A frame from its message to its answer, serialised, which `lease` accounts for."""

    request: wire.StreamDetectRequest
    answer: Future[bytes]
    lease: Lease


class FrameStream:
    """Owns the frames of one stream; flow control is gRPC's: what is not read here waits there."""

    def __init__(
        self,
        frames: FrameCalls,
        threads: HandlerThreads,
        budget: MemoryBudget,
        context: CallContext,
    ) -> None:
        self._frames, self._threads, self._context = frames, threads, context
        self._budget = budget
        self._changed = threading.Condition()
        self._answers: Deque[Tuple[Future[bytes], Lease]] = deque()
        self._in_flight = 0
        self._overtakable: Optional[StreamedFrame] = None
        self._cancels: Dict[int, Callable[[], object]] = {}  # frame id → what ends its wait
        self._options = wire.StreamOptions()
        self._last_id = -1
        self._ended = False
        self._failure: Optional[Exception] = None
        self.received_s = time.monotonic()  # when the last frame came

    def answers(self, requests: Iterator[bytes]) -> Iterator[bytes]:
        """Yield an answer a frame, in order, until the client has sent its last.

        Both are serialised messages. Raises InvalidRequest for a frame id that doesn't rise or
        wrong options, AgentUnavailable when the agent ends it.
        """
        self._context.add_callback(self._release)
        self._threads.submit(self._read, requests)
        try:
            while True:
                with self._changed:
                    self._changed.wait_for(lambda: self._answers or self._ended)
                    if not self._answers:
                        break
                    answer, lease = self._answers.popleft()
                    self._changed.notify_all()
                try:
                    yield answer.result()
                finally:
                    lease.end()
        finally:
            self._release()
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # whose traceback holds this frame

    def cancel(self) -> None:
        """End the call at once; another one needs its place."""
        self._context.cancel()

    def end(self) -> None:
        """Read no further frame; the agent stops. What was read is still answered."""
        self._finish(AgentUnavailable("The agent is stopping; open the stream again later."))

    def _read(self, requests: Iterator[bytes]) -> None:
        try:
            for content in requests:
                size, request = len(content), parse(wire.StreamDetectRequest, content)
                del content
                self.received_s = time.monotonic()
                zero_copy.check_names_bytes(size, request.request)
                self._check(request)
                if not self._accept(request, size):
                    return
                del request  # nobody needs it while the next one is waited for
        except grpc.RpcError:
            self._finish(None)  # the client has gone
        except Exception as error:
            self._finish(error.with_traceback(None))  # which would hold the message
        else:
            with self._changed:  # the last frame is in work whatever came after it
                self._changed.wait_for(lambda: self._overtakable is None or self._ended)
            self._finish(None)

    def _check(self, request: wire.StreamDetectRequest) -> None:
        if self._last_id < 0:
            self._options = request.options
            if self._options.max_in_flight > protocol.MOST_FRAMES_IN_FLIGHT:
                raise InvalidRequest(
                    f"options.max_in_flight is {self._options.max_in_flight}; "
                    f"expected at most {protocol.MOST_FRAMES_IN_FLIGHT}."
                )
        if request.frame_id <= self._last_id:
            raise InvalidRequest(
                f"Frame id {request.frame_id} came after {self._last_id}; ids must rise."
            )
        self._last_id = request.frame_id

    def _accept(self, request: wire.StreamDetectRequest, size: int) -> bool:
        """Put a frame in work as soon as there is room; False when the stream has ended."""
        frame = StreamedFrame(request, Future(), self._budget.lease(_never))
        with self._changed:
            if self._options.newest_frame_wins:
                self._changed.wait_for(lambda: len(self._answers) < ANSWERS_AT_ONCE or self._ended)
            else:
                self._changed.wait_for(lambda: self._has_room() or self._ended)
            if self._ended:
                frame.lease.end()
                return False
            self._answers.append((frame.answer, frame.lease))
            self._changed.notify_all()
            try:
                frame.lease.resize(PARSED_COPIES * size)
            except CallsTakeTooMuch as error:
                frame.answer.set_result(_bytes(_failure(request, error)))
                return True
            if self._has_room():
                self._begin(frame)
            else:
                if self._overtakable is not None:
                    _skip(self._overtakable)
                self._overtakable = frame
            return True

    def _has_room(self) -> bool:
        return self._in_flight < (self._options.max_in_flight or protocol.FRAMES_IN_FLIGHT)

    def _begin(self, frame: StreamedFrame) -> None:
        self._in_flight += 1
        self._threads.submit(self._judge, *frame)

    def _judge(
        self, request: wire.StreamDetectRequest, future: Future[bytes], lease: Lease
    ) -> None:
        try:
            answer = _bytes(self._answer(request, lease))
            lease.resize(SENT_COPIES * len(answer))
        except Exception as error:
            answer = _bytes(_failure(request, error))
            lease.shrink(SENT_COPIES * len(answer))
        future.set_result(answer)
        with self._changed:
            self._cancels.pop(request.frame_id, None)
            self._in_flight -= 1
            if self._overtakable is not None:
                frame, self._overtakable = self._overtakable, None
                self._begin(frame)
            self._changed.notify_all()

    def _answer(self, request: wire.StreamDetectRequest, lease: Lease) -> Answer:
        def on_cancel(action: Callable[[], object]) -> bool:
            with self._changed:
                self._cancels[request.frame_id] = action
            return bool(self._context.is_active())

        name = f"{self._context.peer()} stream {id(self)}"
        caller = metadata.caller(self._context, name, on_cancel)
        try:
            result, trailing, count = self._frames.judge(
                convert.frame_request(request.request),
                caller,
                waited_s(),
                lease,
                convert.inspect_response,
            )
        except CancelledError:
            return Answer(frame_id=request.frame_id, skipped=True)  # nobody reads it
        count()
        timing = dict(trailing)[protocol.SERVER_TIMING]
        return Answer(frame_id=request.frame_id, result=result, server_timing=timing)

    def _finish(self, failure: Optional[Exception]) -> None:
        with self._changed:
            if not self._ended:
                self._ended, self._failure = True, failure
                if self._overtakable is not None and failure is not None:
                    _skip(self._overtakable)
                    self._overtakable = None
            self._changed.notify_all()

    def _release(self) -> None:
        """Release all frames: the client has gone, or has all it asked for."""
        self._finish(None)
        with self._changed:
            actions: List[Callable[[], object]] = list(self._cancels.values())
            self._cancels.clear()
            unread = list(self._answers)
            self._answers.clear()
        for action in actions:
            action()
        for answer, lease in unread:
            answer.add_done_callback(partial(_end, lease))


def _never() -> None:
    """Cancel nothing: a frame waits for its caller only together with its stream."""


def _end(lease: Lease, _answer: Future[bytes]) -> None:
    lease.end()


def _bytes(answer: Answer) -> bytes:
    return bytes(answer.SerializeToString())


def _failure(request: wire.StreamDetectRequest, error: Exception) -> Answer:
    code, message = status.of(error)
    trailing = dict(metadata.of_error(error))
    failure = wire.StreamFailure(
        code=code.value[0], message=message, error_name=trailing.get(protocol.ERROR_NAME, "")
    )
    return Answer(frame_id=request.frame_id, failure=failure)


def _skip(frame: StreamedFrame) -> None:
    frame.answer.set_result(_bytes(Answer(frame_id=frame.request.frame_id, skipped=True)))
    frame.lease.shrink(0)
