"""Rows spread over devices and processes answer as rows in one place."""

import socket
import subprocess
import sys

import numpy as np
from rows import LABELS, N, X

from jaxgd import losses, minimize

DEVICES = """
import jax, jax.numpy as jnp, numpy as np, jaxgd
from jax.sharding import NamedSharding, PartitionSpec as P
rng = np.random.default_rng(0)
X = rng.normal(size=(3000, 4)).astype(np.float32)
y = (X @ np.ones(4) + rng.logistic(size=3000) > 0).astype(np.float32)
mesh = jax.make_mesh((2,), ("rows",))
weights = np.arange(3000.0, dtype=np.float32) % 3
spread = [jax.device_put(leaf, NamedSharding(mesh, P("rows"))) for leaf in (X, y, weights)]
one = jaxgd.minimize(jaxgd.losses.logistic, jaxgd.Rows((X, y), weights))
two = jaxgd.minimize(jaxgd.losses.logistic, jaxgd.Rows((spread[0], spread[1]), spread[2]))
assert "sample" in two.method and two.converged, two
assert np.allclose(one.params, two.params, atol=1e-4), (one, two)
everywhere = [jax.device_put(leaf, NamedSharding(mesh, P())) for leaf in (X, y, weights)]
copied = jaxgd.minimize(jaxgd.losses.logistic, jaxgd.Rows((everywhere[0], everywhere[1]), everywhere[2]))
assert np.allclose(one.params, copied.params, atol=1e-4), (one, copied)
wide = jax.device_put(X, NamedSharding(mesh, P(None, "rows")))
for data in ((wide, y), (spread[0], y), (X, spread[1])):
    try:
        jaxgd.minimize(jaxgd.losses.logistic, jaxgd.Rows(data))
    except ValueError as error:
        print(error)
adam = dict(method=jaxgd.GradientDescent(0.5), batch_size=100)
batches = jaxgd.minimize(jaxgd.losses.logistic, jaxgd.Rows((spread[0], spread[1]), spread[2]), **adam)
assert batches.loss < one.loss + 0.02, (batches, one)
"""


def run(code, *args, **settings):
    return subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, text=True, **settings)


def test_rows_spread_over_devices(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    said = run(DEVICES).communicate(timeout=120)[0]
    assert "cut along another axis than its rows" in said
    assert said.count("spread over devices in different ways") == 2


MEMBER = """
import sys
import jax, numpy as np, jaxgd
port, count, rank = map(int, sys.argv[1:4])
if count > 1:
    jax.distributed.initialize(f"localhost:{port}", count, rank)
rows = jaxgd.Rows.open({"X": sys.argv[4] + "/X", "y": sys.argv[4] + "/y"})
result = jaxgd.minimize(lambda w, data: jaxgd.losses.logistic(w, (data["X"], data["y"])), rows)
print(result.converged, result.params.tobytes().hex(), np.asarray(result.params).tolist())
"""


def test_two_processes_answer_as_one(tmp_path):
    for name, leaf in (("X", X.astype(np.float32)), ("y", LABELS)):
        (tmp_path / name).mkdir()
        for i, (low, high) in enumerate(((0, 300), (300, 301), (301, N))):
            np.save(tmp_path / name / f"{i}.npy", leaf[low:high])
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    members = [run(MEMBER, port, "2", str(rank), str(tmp_path)) for rank in range(2)]
    said = [member.communicate(timeout=120)[0].splitlines()[-1] for member in members]
    assert said[0] == said[1]
    converged, _, params = said[0].split(" ", 2)
    assert converged == "True"
    alone = minimize(losses.logistic, (X, LABELS), dtype="float64")
    assert np.allclose(np.array(params.strip("[]").split(", "), float), alone.params, atol=1e-3)
