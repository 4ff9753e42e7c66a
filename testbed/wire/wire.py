"""Does with a generated client what a user does with Gofer; see `test` in this folder.

Each check is a function that takes the connection; they run in the order in which they are written, and each says on one
line how it went.
"""

import hashlib
import sys
import traceback
from collections.abc import Callable, Iterator

import grpc
import grpc_web
from google.protobuf import descriptor_pool, json_format, message_factory
from google.rpc import error_details_pb2
from gofer.v1 import event_pb2, event_pb2_grpc, namespace_pb2, namespace_pb2_grpc, object_pb2, object_pb2_grpc
from gofer.v1 import pipeline_pb2, pipeline_pb2_grpc, run_pb2, run_pb2_grpc, system_pb2, system_pb2_grpc
from gofer.v1 import task_run_pb2, task_run_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

SERVICES = {
    f"gofer.v1.{name}Service"
    for name in (
        "CommonTask",
        "Event",
        "Namespace",
        "Object",
        "Pipeline",
        "Run",
        "Secret",
        "System",
        "TaskRun",
        "Token",
        "Trigger",
    )
}
NAMESPACE = "wire"
PIPELINE = "greet"
NAMES = {"namespace": NAMESPACE, "pipeline": PIPELINE}
# Two chunks of the size the contract recommends, and a bit.
OBJECT = bytes(range(256)) * 516
CHUNK = 64 * 1024
TIMEOUT = 20

CHECKS: list[Callable[[grpc.Channel], None]] = []


def check(function: Callable[[grpc.Channel], None]) -> Callable[[grpc.Channel], None]:
    CHECKS.append(function)
    return function


def refused(code: grpc.StatusCode, call: Callable[[], object]) -> grpc.RpcError:
    try:
        answer = call()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()}: {error.details()}"
        return error
    raise AssertionError(f"expected {code}, got an answer: {answer}")


def error_details(error: grpc.RpcError, kind: type) -> Iterator:
    status = rpc_status.from_call(error)
    assert status is not None, "the error carries no google.rpc.Status"
    for detail in status.details:
        if detail.Is(kind.DESCRIPTOR):
            message = kind()
            detail.Unpack(message)
            yield message


@check
def the_server_says_it_is_healthy(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for service in ("", "gofer.v1.RunService"):
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=TIMEOUT)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING, f"{service!r}: {answer}"


@check
def reflection_lists_every_service(channel):
    listed = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert SERVICES <= listed, f"missing: {SERVICES - listed}"
    assert any(name.startswith("grpc.health.") for name in listed), listed


@check
def a_client_without_proto_files_can_call_by_reflection(channel):
    pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    method = pool.FindServiceByName("gofer.v1.SystemService").FindMethodByName("GetSystemInfo")
    request, answer = map(message_factory.GetMessageClass, (method.input_type, method.output_type))
    call = channel.unary_unary(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=request.SerializeToString,
        response_deserializer=answer.FromString,
    )
    info = json_format.MessageToDict(call(request(), timeout=TIMEOUT))
    assert info["devMode"] is True and info["version"] and info["backends"], info


@check
def a_namespace_is_created_once(channel):
    stub = namespace_pb2_grpc.NamespaceServiceStub(channel)
    request = namespace_pb2.CreateNamespaceRequest(id=NAMESPACE, description="made by a test")
    created = stub.CreateNamespace(request, timeout=TIMEOUT).namespace
    assert created.id == NAMESPACE and created.created_at.seconds > 0, created
    refused(grpc.StatusCode.ALREADY_EXISTS, lambda: stub.CreateNamespace(request, timeout=TIMEOUT))
    listed = stub.ListNamespaces(namespace_pb2.ListNamespacesRequest(), timeout=TIMEOUT).namespaces
    assert [namespace.id for namespace in listed] == ["default", NAMESPACE], listed


@check
def bad_input_names_field_and_rule(channel):
    stub = namespace_pb2_grpc.NamespaceServiceStub(channel)
    request = namespace_pb2.CreateNamespaceRequest(id="No Such Form")
    error = refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: stub.CreateNamespace(request, timeout=TIMEOUT))
    fields = [v.field for bad in error_details(error, error_details_pb2.BadRequest) for v in bad.field_violations]
    assert fields == ["id"], f"{fields}: {error.details()}"
    assert any(info.reason for info in error_details(error, error_details_pb2.ErrorInfo)), error.details()


def spec() -> pipeline_pb2.PipelineSpec:
    """A greeting, and a task after it; written as the JSON that any language can print."""
    script = 'printf "hello %s\\n" "$WHO"; printf "not to be heard\\n" >&2'
    after = {"id": "after", "custom": {"command": ["true"]}, "dependsOn": [{"task": "hello"}]}
    hello = {"id": "hello", "custom": {"command": ["sh", "-c", script], "separateOutput": True}, "variables": {"WHO": "nobody"}}
    return json_format.ParseDict({"name": PIPELINE, "tasks": [after, hello]}, pipeline_pb2.PipelineSpec())


@check
def a_pipeline_is_registered_once_per_change(channel):
    stub = pipeline_pb2_grpc.PipelineServiceStub(channel)
    request = pipeline_pb2.RegisterPipelineRequest(namespace=NAMESPACE, spec=spec())
    first = stub.RegisterPipeline(request, timeout=TIMEOUT)
    assert first.changed and first.version == 1 and first.pipeline.enabled and first.changes, first
    again = stub.RegisterPipeline(request, timeout=TIMEOUT)
    assert not again.changed and again.version == 1, again
    request = pipeline_pb2.GetPipelineVersionRequest(**NAMES)
    kept = stub.GetPipelineVersion(request, timeout=TIMEOUT).version.spec
    assert [task.id for task in kept.tasks] == ["after", "hello"] and kept.tasks[1] == spec().tasks[1], kept
    assert [edge.task for edge in kept.tasks[0].depends_on] == ["hello"], kept


@check
def a_cycle_is_refused(channel):
    cyclic = spec()
    cyclic.tasks[1].depends_on.add(task="after")
    request = pipeline_pb2.RegisterPipelineRequest(namespace=NAMESPACE, spec=cyclic)
    stub = pipeline_pb2_grpc.PipelineServiceStub(channel)
    refused(grpc.StatusCode.INVALID_ARGUMENT, lambda: stub.RegisterPipeline(request, timeout=TIMEOUT))


@check
def a_run_is_started_once_per_key_and_followed_to_its_end(channel):
    stub = run_pb2_grpc.RunServiceStub(channel)
    request = run_pb2.StartRunRequest(**NAMES, variables={"WHO": "wire"}, idempotency_key="once")
    runs = [stub.StartRun(request, timeout=TIMEOUT).run.run for _ in range(2)]
    assert runs == [1, 1], runs
    states, last = {"after": [], "hello": []}, None
    for message in stub.FollowRun(run_pb2.FollowRunRequest(**NAMES, run=1), timeout=TIMEOUT):
        match message.update.WhichOneof("subject"):
            case "task_run":
                states[message.update.task_run.task].append(message.update.task_run.state)
            case "run":
                last = message.update.run
    assert last is not None and last.state == run_pb2.RUN_STATE_COMPLETE, last
    assert last.status == run_pb2.RUN_STATUS_SUCCESSFUL, last
    for task, seen in states.items():
        assert seen == sorted(seen) and seen[-1] == task_run_pb2.TASK_RUN_STATE_COMPLETE, f"{task}: {seen}"


@check
def a_run_that_does_not_exist_is_not_found(channel):
    stub = run_pb2_grpc.RunServiceStub(channel)
    request = run_pb2.GetRunRequest(**NAMES, run=77)
    refused(grpc.StatusCode.NOT_FOUND, lambda: stub.GetRun(request, timeout=TIMEOUT))


@check
def logs_are_streamed_byte_by_byte(channel):
    stub = task_run_pb2_grpc.TaskRunServiceStub(channel)
    request = task_run_pb2.StreamLogsRequest(**NAMES, run=1, task="hello", follow=True)
    logs = {task_run_pb2.LOG_STREAM_STDOUT: b"", task_run_pb2.LOG_STREAM_STDERR: b""}
    for message in stub.StreamLogs(request, timeout=TIMEOUT):
        chunk = message.chunk
        assert message.attempt == 1 and chunk.offset == len(logs[chunk.stream]), message
        logs[chunk.stream] += chunk.data
    assert list(logs.values()) == [b"hello wire\n", b"not to be heard\n"], logs


def parts(key: str, data: bytes) -> Iterator[object_pb2.PutObjectRequest]:
    header = object_pb2.PutObjectHeader(**NAMES, key=key, size_bytes=len(OBJECT))
    yield object_pb2.PutObjectRequest(header=header)
    for start in range(0, len(data), CHUNK):
        yield object_pb2.PutObjectRequest(chunk=data[start : start + CHUNK])


@check
def an_object_is_put_and_got_as_streams(channel):
    stub = object_pb2_grpc.ObjectServiceStub(channel)
    stored = stub.PutObject(parts("some/bytes", OBJECT), timeout=TIMEOUT).object
    digest = hashlib.sha256(OBJECT).hexdigest()
    assert (stored.size_bytes, stored.sha256) == (len(OBJECT), digest), stored
    messages = list(stub.GetObject(object_pb2.GetObjectRequest(**NAMES, key="some/bytes"), timeout=TIMEOUT))
    assert messages[0].object.sha256 == digest, messages[0]
    assert b"".join(message.chunk for message in messages[1:]) == OBJECT


@check
def an_upload_that_breaks_off_leaves_nothing(channel):
    stub = object_pb2_grpc.ObjectServiceStub(channel)

    def broken() -> Iterator[object_pb2.PutObjectRequest]:
        yield from parts("half", OBJECT[:CHUNK])
        raise ConnectionAbortedError("the client is cut off")

    for upload, why in ((broken(), "cut off"), (parts("half", OBJECT[:CHUNK]), "shorter than announced")):
        try:
            stub.PutObject(upload, timeout=TIMEOUT)
        except grpc.RpcError:
            pass
        else:
            raise AssertionError(f"an upload that is {why} was accepted")
    request = object_pb2.HeadObjectRequest(**NAMES, key="half")
    refused(grpc.StatusCode.NOT_FOUND, lambda: stub.HeadObject(request, timeout=TIMEOUT))


@check
def events_are_followed_from_a_cursor(channel):
    stub = event_pb2_grpc.EventServiceStub(channel)
    ids, types = [], []
    wanted = {
        "namespace_created",
        "pipeline_registered",
        "run_created",
        "task_run_completed",
        "run_completed",
        "object_put",
    }
    stream = stub.FollowEvents(event_pb2.FollowEventsRequest(after_id=0, namespace=NAMESPACE), timeout=TIMEOUT)
    for message in stream:
        if message.HasField("event"):
            ids.append(message.event.id)
            types.append(message.event.WhichOneof("details"))
        if wanted <= set(types):
            break
    stream.cancel()
    assert ids == sorted(set(ids)), ids
    assert types.index("run_created") < types.index("task_run_completed") < types.index("run_completed"), types
    request = event_pb2.ListEventsRequest(after_id=ids[0], namespace=NAMESPACE, page_size=1)
    assert stub.ListEvents(request, timeout=TIMEOUT).events[0].id == ids[1]


@check
def all_events_together_have_no_gap(channel):
    stub = event_pb2_grpc.EventServiceStub(channel)
    newest = system_pb2_grpc.SystemServiceStub(channel).GetSystemInfo(
        system_pb2.GetSystemInfoRequest(), timeout=TIMEOUT
    )
    ids, token = [], ""
    while True:
        page = stub.ListEvents(event_pb2.ListEventsRequest(page_size=3, page_token=token), timeout=TIMEOUT)
        ids += [event.id for event in page.events]
        token = page.next_page_token
        if not token:
            break
    assert ids == list(range(1, len(ids) + 1)) and len(ids) >= newest.last_event_id, ids


class Authorization(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """Sends a token with every call. Call credentials would do the same, but not without TLS."""

    def __init__(self, headers: dict[str, str]):
        self.headers = list(headers.items())

    def intercept(self, continuation, details, request):
        return continuation(details._replace(metadata=[*(details.metadata or ()), *self.headers]), request)

    intercept_unary_unary = intercept_unary_stream = intercept
    intercept_stream_unary = intercept_stream_stream = intercept


def main(address: str, token: str) -> int:
    headers = {"authorization": f"Bearer {token}"}

    @check
    def a_browser_calls_by_grpc_web(_):
        answer = grpc_web.call(address, "gofer.v1.SystemService/GetSystemInfo", system_pb2.GetSystemInfoRequest(), headers)
        assert answer.status == 0 and len(answer.messages) == 1, answer
        assert system_pb2.GetSystemInfoResponse.FromString(answer.messages[0]).version, answer

    @check
    def a_browser_reads_a_stream_by_grpc_web(_):
        request = run_pb2.FollowRunRequest(**NAMES, run=1)
        answer = grpc_web.call(address, "gofer.v1.RunService/FollowRun", request, headers)
        updates = [run_pb2.FollowRunResponse.FromString(message).update for message in answer.messages]
        assert answer.status == 0 and any(update.run.status == run_pb2.RUN_STATUS_SUCCESSFUL for update in updates), (
            answer
        )

    @check
    def a_browser_gets_errors_by_grpc_web(_):
        request = namespace_pb2.GetNamespaceRequest(id="missing")
        answer = grpc_web.call(address, "gofer.v1.NamespaceService/GetNamespace", request, headers)
        assert answer.status == grpc.StatusCode.NOT_FOUND.value[0] and not answer.messages, answer

    @check
    def without_a_token_nothing_is_told(_):
        answer = grpc_web.call(address, "gofer.v1.SystemService/GetSystemInfo", system_pb2.GetSystemInfoRequest())
        assert answer.status == grpc.StatusCode.UNAUTHENTICATED.value[0] and not answer.messages, answer

    with grpc.insecure_channel(address) as bare:
        channel = grpc.intercept_channel(bare, Authorization(headers))
        failed = sum(not passes(channel, function) for function in CHECKS)
    print(f"{len(CHECKS) - failed} passed, {failed} failed")
    return 1 if failed else 0


def passes(channel: grpc.Channel, function: Callable[[grpc.Channel], None]) -> bool:
    name = function.__name__.replace("_", " ")
    try:
        function(channel)
    # After any error the other checks go on.
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)
        line = next(frame.lineno for frame in reversed(where) if frame.filename == __file__)
        said = f"{error.code()}: {error.details()}" if isinstance(error, grpc.RpcError) else f"{error!r}"
        print(f"FAILED  {name} (wire.py:{line}): {said}", flush=True)
        return False
    print(f"ok      {name}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
