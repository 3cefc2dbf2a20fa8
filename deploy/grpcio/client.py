"""Talks to a node in gRPC as any program in another language would, and says what it did. Ends with 0 only if all of it held.

    client.py PATH_OF_TARN

Starts a cluster of one (`tarn dev`) on free ports in a temporary folder and stops it again.
"""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

import grpc
from grpc_tools import protoc

# Longer than anything here takes on a busy machine; only a broken node makes anybody wait for it.
PATIENCE = 60

PROTOS = pathlib.Path(__file__).resolve().parents[2] / "client" / "proto"

# (module (func (export "add") (param i32 i32) (result i32) (i32.add (local.get 0) (local.get 1))))
ADD = bytes.fromhex(
    "0061736d01000000" "0107016002" "7f7f017f" "03020100" "070701" "0361646400" "00" "0a09010700" "20002001" "6a0b"
)


def make_stubs(folder):
    """Python modules of the contract."""
    protos = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("tarn/v1/*.proto"))
    arguments = ["protoc", f"-I{PROTOS}", f"--python_out={folder}", f"--grpc_python_out={folder}", *protos]
    if protoc.main(arguments) != 0:
        sys.exit("the stubs could not be made")
    sys.path.insert(0, str(folder))


def until(what, look):
    """Waits for something to become true, and gives it back."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    sys.exit(f"{what}: it never happened")


class Node:
    """A cluster of one, and its command line."""

    def __init__(self, tarn, folder):
        self.tarn = tarn
        self.home = folder / "dev"
        self.log = folder / "log"
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("TARN_")
        } | {"HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config")}

    @contextlib.contextmanager
    def running(self):
        any_port = "127.0.0.1:0"
        command = [self.tarn, "dev", "--dir", self.home, "--bind", any_port, "--https-bind", any_port, "--ops-bind", any_port]
        with open(self.log, "wb") as log:
            process = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        try:
            yield self.addresses(process)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def addresses(self, process):
        def look():
            if process.poll() is not None:
                sys.exit(f"the node ended by itself:\n{self.log.read_text()}")
            with contextlib.suppress(FileNotFoundError):
                return json.loads((self.home / "addresses.json").read_text())
            return None

        addresses = until("the node tells its addresses", look)
        user = self.home / "user"
        self.environment |= {
            "TARN_ADDRESS": addresses["api"],
            "TARN_CACERT": str(user / "ca.pem"),
            "TARN_CERT": str(user / "admin.pem"),
            "TARN_KEY": str(user / "admin.key"),
        }
        return addresses

    def run(self, *arguments):
        """What a command prints; None if it fails."""
        done = subprocess.run([self.tarn, *arguments], env=self.environment, capture_output=True, text=True)
        return done.stdout if done.returncode == 0 else None


def refusal_of(call):
    """The error of a call that must not succeed."""
    try:
        call()
    except grpc.RpcError as error:
        return error
    sys.exit("a call that must be refused was answered")


def check(claim, holds, *facts):
    if not holds:
        sys.exit(f"NOT SO: {claim} {facts}")
    print(f"  {claim}")


def talk(node, addresses):
    from tarn.v1 import artifact_pb2, artifact_pb2_grpc, queue_pb2, queue_pb2_grpc, task_pb2, task_pb2_grpc

    authority = until("the node has a web certificate", lambda: node.run("cluster", "web-ca")).encode()
    token = until("a token is made", lambda: node.run("token", "create", "--name", "grpcio")).strip()
    # The address by its name, which is in the certificate.
    target = f"localhost:{addresses['https'].rsplit(':', 1)[1]}"
    channel = grpc.secure_channel(target, grpc.ssl_channel_credentials(root_certificates=authority))
    tasks = task_pb2_grpc.TaskServiceStub(channel)
    # No fork and no proxy between: the deadline is that of a busy machine.
    bearer = {"metadata": [("authorization", f"Bearer {token}")], "timeout": PATIENCE, "wait_for_ready": True}

    chunks = iter([artifact_pb2.PutArtifactRequest(chunk=ADD)])
    artifact = artifact_pb2_grpc.ArtifactServiceStub(channel).PutArtifact(chunks, **bearer).artifact
    check("grpcio stores a WASM module", artifact.startswith("blake3:"), artifact)
    spec = task_pb2.TaskSpec(
        queue="sums",
        runtime="wasm",
        wasm=task_pb2.WasmSpec(artifact=artifact, export="add", params=["2", "40"]),
    )
    task_id = tasks.Enqueue(task_pb2.EnqueueRequest(tasks=[spec]), **bearer).task_ids[0]
    task = tasks.GetTask(task_pb2.GetTaskRequest(task_id=task_id, wait_ms=PATIENCE * 1000), **bearer).task
    check("a task that it submits succeeds", task.state == task_pb2.TASK_STATE_SUCCEEDED, task)
    check("it reads the task's result", task.result.decode().strip() == "42", task.result)
    queues = queue_pb2_grpc.QueueServiceStub(channel).ListQueues(queue_pb2.ListQueuesRequest(), **bearer).queues
    check("it lists the queues", [queue.queue for queue in queues] == ["sums"], queues)

    limits = {"timeout": PATIENCE, "wait_for_ready": True}
    question = task_pb2.GetTaskRequest(task_id=task_id)
    for claim, metadata in [
        ("without a token it is refused", []),
        ("with another token it is refused", [("authorization", "Bearer tarn_" + "a" * 60)]),
        ("with a token in another header it is refused", [("x-token", token)]),
        ("as basic authentication it is refused", [("authorization", f"Basic {token}")]),
    ]:
        error = refusal_of(lambda: tasks.GetTask(question, metadata=metadata, **limits))
        check(claim, error.code() == grpc.StatusCode.UNAUTHENTICATED and error.details(), error)

    token_id = json.loads(node.run("token", "list", "-o", "json"))[0]["token_id"]
    check("the token is revoked", node.run("token", "revoke", token_id) is not None)
    error = refusal_of(lambda: tasks.GetTask(question, **bearer))
    check("and from then on it is refused", error.code() == grpc.StatusCode.UNAUTHENTICATED, error)
    channel.close()

    # Whoever trusts other roots does not talk to the node.
    stranger = grpc.secure_channel(target, grpc.ssl_channel_credentials())
    error = refusal_of(lambda: task_pb2_grpc.TaskServiceStub(stranger).GetTask(question, timeout=PATIENCE))
    check("without the web authority's certificate there is no connection", error.code() == grpc.StatusCode.UNAVAILABLE, error)
    stranger.close()


def main():
    with tempfile.TemporaryDirectory(prefix="tarn-grpcio-") as folder:
        folder = pathlib.Path(folder)
        make_stubs(folder)
        node = Node(sys.argv[1], folder)
        with node.running() as addresses:
            talk(node, addresses)
    print(f"grpcio {grpc.__version__} and tarn understand each other")


main()
