"""The command line: what it reads, what it prints where, how it ends, and what it refuses."""

import json
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import resources

import numpy as np
import pytest
import statsmodels.api as sm
from matplotlib.figure import Figure
from pyarrow import csv, feather, parquet

from jaxgd import losses
from jaxgd.cli import arguments
from jaxgd.cli import arrays as shell_arrays
from jaxgd.cli import columns as shell_columns
from jaxgd.cli.command import main
from jaxgd.cli.data import opened
from jaxgd.cli.loss import READY, loaded

OWN = """
import jax.numpy as jnp
from beside import number
print("imported")
kind = "none"
def loss(params, data):
    return jnp.mean((data["tip"] - params) ** 2)
def total(params, data):
    return jnp.sum((data["tip"] - params) ** 2)
def left_out(params, data):
    return jnp.mean((data["sex"] - params) ** 2)
def misspelt(params, data):
    return jnp.mean((data["tipp"] - params) ** 2)
def wrong(params, data):
    return params * undefined
def valley(p):
    return 100 * jnp.sum((p[1:] - p[:-1] ** 2) ** 2) + jnp.sum((1 - p) ** 2)
def falls(params, data):
    return params * jnp.mean(data["tip"])
def not_finite(params, data):
    return jnp.mean(jnp.log(data["tip"] - 100 + params))
"""
MEAN, SLOPES = 2.99827868852459, [0.92026961, 0.10502452]


class Marks:
    """Unpickling makes a file."""

    def __reduce__(self):
        return (open, ("unpickled", "w"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files of all kinds, good and bad."""
    path = tmp_path_factory.mktemp("command")
    shutil.copy(str(resources.files("jaxgd").joinpath("cli/tips.csv")), path / "tips.csv")
    table = csv.read_csv(path / "tips.csv")
    csv.write_csv(table, path / "tips.tsv", csv.WriteOptions(delimiter="\t"))
    parquet.write_table(table, path / "tips.parquet")
    feather.write_feather(table, path / "tips.arrow")
    bill, tip = (table.column(name).to_numpy() for name in ("total_bill", "tip"))
    np.save(path / "two.npy", np.stack([bill, tip], axis=1))
    np.savez(path / "tips.npz", X=np.stack([np.ones(244), bill], axis=1), y=tip, day=np.array(table["day"].to_pylist()))
    np.save(path / "pickled.npy", np.array([Marks()], object), allow_pickle=True)
    np.savez(path / "pickled.npz", a=np.array([Marks()], object), tip=tip)
    (path / "bare.npz").write_bytes(pickle.dumps(Marks()))
    for name in ("tips.parquet", "tips.arrow", "two.npy", "tips.npz"):
        whole = (path / name).read_bytes()
        (path / f"cut.{name.split('.')[1]}").write_bytes(whole[: len(whole) // 2])
    texts = {
        "empty": "",
        "head": "a,b\n",
        "marks": "a;b\n1;2\n",
        "uneven": "a,b\n1,2\n3\n",
        "gaps": "a,b,c\n1,x,1\n,y,2\n3,z,3\n",
    }
    texts["stores"] = "store,sales\nA,1\nB,3\nC,9\nA,2\nB,5\nC,7\n"
    for name, text in texts.items():
        (path / f"{name}.csv").write_text(text)
    (path / "own.py").write_text(OWN)
    (path / "beside.py").write_text("number = 3\n")
    (path / "raises.py").write_text("import os\n\nraise RuntimeError('no luck')\n")
    (path / "unfinished.py").write_text("def loss(p:\n")
    return path


@pytest.fixture
def run(folder, capsys, monkeypatch):
    """Call the command line in the folder; return status, stdout and stderr."""
    monkeypatch.chdir(folder)

    def call(*words):
        status = main([*words])
        return status, *capsys.readouterr()

    return call


def answer(found):
    status, out, _ = found
    assert out.count("\n") == 1

    def refuse(word):
        raise AssertionError(word)

    return status, json.loads(out, parse_constant=refuse)


@pytest.mark.parametrize(
    "words",
    [
        ("tips.csv", "--columns", "tip"),
        ("tips.csv", "--columns", "tip", "--stream"),
        ("tips.tsv", "--columns", "tip"),
        ("tips.parquet", "--columns", "tip"),
        ("tips.parquet", "--columns", "tip", "--stream"),
        ("tips.arrow", "--columns", "tip"),
        ("tips.arrow", "--columns", "tip", "--stream"),
        ("two.npy", "--columns", "1"),
        ("two.npy", "--columns", "1", "--stream"),
        ("tips.npz", "--columns", "y"),
        ("pickled.npz",),
    ],
    ids=" ".join,
)
def test_every_kind_of_file(run, folder, words):
    status, found = answer(run("mse", *words, "--json"))
    assert status == 0
    assert found["params"] == pytest.approx(MEAN, rel=1e-9)
    names = ["status", "converged", "message", "params", "loss", "grad_norm", "evals", "moves", "method", "seconds"]
    assert list(found) == names
    assert not (folder / "unpickled").exists()


def test_what_a_loss_gets(run, tmp_path):
    for words in (("tips.csv", "--columns", "total_bill:tip", "--intercept"), ("tips.npz", "--columns", "X:y")):
        status, found = answer(run("squared", *words, "--json"))
        assert (status, found["params"]) == (0, pytest.approx(SLOPES, rel=1e-6))
    streamed = answer(run("squared", "two.npy", "--columns", "0:1", "--intercept", "--stream", "--json"))
    assert streamed[1]["params"] == pytest.approx(SLOPES, rel=1e-6)
    status, out, err = run("own.py:loss", "tips.csv")
    assert (status, "2.99827" in out, "imported" in out, "imported" in err) == (0, True, False, True)
    odd = tmp_path / "odd.csv"
    odd.write_text('"a,b",c:d\n1,2\n3,4\n')
    assert arguments.parse(["mse", str(odd), "--columns", r"a\,b:c\:d"]).columns == (["a,b"], ["c:d"])
    assert answer(run("mse", str(odd), "--columns", r"c\:d", "--json"))[1]["params"] == pytest.approx(3)


def test_people_read_names(run):
    _, out, err = run("squared", "tips.csv", "--columns", "total_bill:tip", "--intercept", "--l2", "1")
    assert (out.startswith("Converged"), err) == (True, "")
    assert re.search(r"^  intercept    0.9462\d+\n  total_bill   0.1037\d+$", out, re.MULTILINE)


def test_groups(run, monkeypatch):
    status, found = answer(run("mse", "stores.csv", "--columns", "sales", "--by", "store", "--json"))
    assert (status, [row["label"] for row in found["groups"]]) == (0, ["A", "B", "C"])
    assert [row["params"] for row in found["groups"]] == pytest.approx([1.5, 4, 8])
    monkeypatch.setattr("jaxgd.cli.report.MOST", 2)
    status, out, _ = run("mse", "stores.csv", "--columns", "sales", "--by", "store")
    assert re.search(r"^B +CONVERGED +1 +\d+ +4\.0", out, re.MULTILINE)
    assert out.endswith("and 1 more, all by --json\n")


def test_starts_bounds_and_options(run, folder):
    (folder / "fit.json").write_text(run("mse", "tips.csv", "--columns", "tip", "--json")[1])
    for words in (["fit.json"], ["-1e1"], ["2", "--dtype", "float32"], ["2", "--method", "lbfgs", "--tol", "1e-9"]):
        status, found = answer(run("mse", "tips.csv", "--columns", "tip", "--json", "--init", *words))
        assert (status, found["params"]) == (0, pytest.approx(MEAN, rel=1e-5))
    assert answer(run("mse", "tips.csv", "--columns", "tip", "--json", "--bounds", "-1,1"))[1]["params"] == 1
    classes = answer(run("softmax", "tips.csv", "--columns", "tip:size", "--l2", "0.1", "--json"))
    assert (classes[0], np.shape(classes[1]["params"])) == (0, (1, 7))


def test_not_converged_is_status_1(run):
    status, found = answer(run("own.py:not_finite", "tips.csv", "--json"))
    assert (status, found["status"], found["loss"]) == (1, "BAD_START", None)
    assert "`--init`" in found["message"]
    status, out, err = run("own.py:falls", "tips.csv")
    assert (status, out.startswith("Not converged (UNBOUNDED)"), "Warning" in err) == (1, True, False)


def test_a_run_is_saved_resumed_and_drawn(run, folder):
    words = ("own.py:valley", "--init", "[-1.2,1,-1.2,1]", "--method", "lbfgs", "--json")
    whole = answer(run(*words))[1]
    status, part = answer(run(*words, "--max-evals", "5", "--checkpoint", "saved", "--every", "0"))
    assert (status, part["status"], part["evals"]) == (1, "MAX_EVALS", 5)
    status, found = answer(run(*words, "--resume", "saved", "--checkpoint", "saved"))
    assert (status, found["params"], found["evals"]) == (0, whole["params"], whole["evals"])
    assert "another one" in run("mse", "tips.csv", "--columns", "tip", "--resume", "saved")[2]
    assert run(*words, "--plot", "drawn.png")[0] == 0
    assert (folder / "drawn.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".arrow", ".npy", ".npz"])
def test_damaged_files_are_read_or_refused_by_name(folder, monkeypatch, suffix):
    """Bits flipped, pieces cut off, put in and written over: what comes is data, or an error that names the file."""
    monkeypatch.chdir(folder)
    whole, draw = (folder / f"{'two' if suffix == '.npy' else 'tips'}{suffix}").read_bytes(), np.random.default_rng(0)
    columns = [] if suffix == ".npy" else ["--columns", "y" if suffix == ".npz" else "tip"]
    asked = arguments.parse(["mse", f"damaged{suffix}", *columns])
    refused = 0
    (folder / f"damaged{suffix}").write_bytes(whole)
    opened(asked, loaded("mse"), None)
    for change in range(200):
        at, length = int(draw.integers(len(whole))), int(draw.choice([1, 8, 64]))
        other = draw.bytes(length)
        flipped = bytes([whole[at] ^ (1 << int(draw.integers(8)))])
        damaged = (
            whole[:at] + flipped + whole[at + 1 :],
            whole[:at],
            whole[:at] + other + whole[at:],
            whole[:at] + other + whole[at + length :],
        )[change % 4]
        (folder / f"damaged{suffix}").write_bytes(damaged)
        try:
            opened(asked, loaded("mse"), None)
        except (ValueError, TypeError) as error:
            assert f"damaged{suffix}" in str(error) or "there is no" in str(error), (error, change)  # noqa: PT017
            refused += 1
    assert 0 < refused < 200


def test_rows_without_a_label_are_no_group(run, folder):
    (folder / "unlabelled.csv").write_text("store,sales\nA,1\n,3\nB,9\n,2\n")
    status, _, err = run("mse", "unlabelled.csv", "--columns", "sales", "--by", "store")
    assert (status, "column 'store' has no label for 2 of 4 rows" in err) == (2, True)


def test_errors_as_statsmodels(run):
    words = ("tips.csv", "--columns", "total_bill:tip", "--intercept", "--summary")
    table = csv.read_csv(resources.files("jaxgd").joinpath("cli/tips.csv")).to_pandas()
    peer = sm.OLS(table["tip"], sm.add_constant(table["total_bill"])).fit()
    printed = answer(run("squared", *words, "--json"))[1]
    found = printed["summary"]
    assert printed["r_squared"] == pytest.approx(peer.rsquared, rel=1e-9)
    assert [each["param"] for each in found] == ["intercept", "total_bill"]
    np.testing.assert_allclose([each["stderr"] for each in found], peer.bse, rtol=1e-9)
    np.testing.assert_allclose([(each["low"], each["high"]) for each in found], peer.conf_int(), rtol=1e-9)
    lines = run("squared", *words)[1].splitlines()
    assert f"R² {peer.rsquared:.4f}" in lines[1]
    assert re.fullmatch(r"  total_bill +0\.1050 ± 0\.0074 +14\.26 +0\.0905 to 0\.1195", lines[-1])
    groups = answer(run("mse", "tips.csv", "--columns", "tip", "--by", "day", "--summary", "--json"))[1]["groups"]
    errors = table.groupby("day")["tip"].sem()
    np.testing.assert_allclose([group["summary"][0]["stderr"] for group in groups], errors, rtol=1e-9)
    assert [group["r_squared"] for group in groups] == pytest.approx([0.0] * 4, abs=1e-12)
    assert "Sun" in run("mse", "tips.csv", "--columns", "tip", "--by", "day", "--summary")[1]
    status, out, _ = run("huber_regression", *words, "--max-evals", "1")
    assert (status, "no standard errors" in out, "±" in out) == (1, True, False)
    assert "`--max-evals`" in out
    status, found = answer(run("huber_regression", *words, "--max-evals", "1", "--json"))
    assert (status, found["summary"][0]["stderr"]) == (1, None)


@pytest.mark.parametrize(
    ("words", "axes"),
    [
        ("squared --columns total_bill:tip --intercept", ["tip", "y - curve"]),
        ("poisson --columns total_bill:size", ["size", "y - curve"]),
        ("squared --columns total_bill,size:tip", None),
        ("squared --columns total_bill:tip --stream", None),
        ("mse --columns tip", None),
    ],
)
def test_plots_show_the_fit_where_there_is_a_curve(run, monkeypatch, words, axes):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, _: drawn.append([ax.get_ylabel() for ax in self.axes]))
    loss, *options = words.split()
    assert run(loss, "tips.csv", *options, "--plot", "drawn.png")[0] == 0
    assert (drawn[0] == axes) if axes else (len(drawn[0]) == 3)


def test_large_files_are_read_in_passes(run, monkeypatch):
    monkeypatch.setattr(shell_columns, "LARGE", 1000)
    monkeypatch.setattr(shell_arrays, "LARGE", 1000)
    for words in (("tips.csv",), ("tips.parquet",), ("tips.arrow",)):
        status, _, err = run("own.py:total", *words)
        assert (status, "is no mean over rows" in err, "--in-memory" in err) == (2, True, True)
    assert answer(run("own.py:total", "tips.csv", "--in-memory", "--json"))[1]["params"] == pytest.approx(MEAN)
    _, found = answer(run("mse", "tips.parquet", "--columns", "tip", "--json"))
    assert "sample of rows" in found["method"]


BAD = {
    "hubr tips.csv": "the nearest is 'huber'",
    "own.py tips.csv": "names a file and no function",
    "none.py:loss tips.csv": "there is no file 'none.py'",
    "own.py:los tips.csv": "has no function 'los'. Did you mean 'loss'?",
    "own.py:kind tips.csv": "is no function; it has type str",
    "mse:2 tips.csv": "takes no number",
    "quantile tips.csv": "q must be a number above 0 and below 1; none is given",
    "huber:x tips.csv": "delta must be a number above 0; got 'x'",
    "mse": "needs DATA",
    "mse none.csv": "there is no file 'none.csv'",
    "mse own.py": "of an unknown kind; files of type .csv",
    "mse .": "is a folder",
    "mse empty.csv": "is empty",
    "mse head.csv": "has no rows",
    "mse marks.csv": "They are apart by commas",
    "mse uneven.csv": "CSV parse error: Expected 2 columns, got 1",
    "mse cut.parquet --columns tip": "cannot be read as a file of type Parquet",
    "mse cut.arrow --columns tip": "cannot be read as a file of type Arrow",
    "mse cut.npy": "ends early",
    "mse cut.npz": "it was cut short",
    "mse bare.npz": "it is no archive",
    "mse pickled.npy": "holds object values",
    "mse pickled.npz --columns a": "holds Python objects, which are not unpickled",
    "mse tips.csv": "name it by --columns. DATA has total_bill, tip",
    "mse tips.csv --columns ,": "selects no column",
    "mse tips.csv --columns tipp": "Did you mean 'tip'?",
    "mse tips.csv --columns sex": "holds string; only numbers",
    "mse gaps.csv --columns a": "holds nulls: 1",
    "mse gaps.csv --columns a --stream": "holds nulls: 1",
    "mse gaps.csv --columns c --by a": "has no label for 1 of 3 rows",
    "mse tips.csv --columns tip --by dya": "--by names 'dya'; DATA tips.csv has no such column. Did you mean 'day'?",
    "mse two.npy --columns 2": "There are: '0', '1'",
    "squared tips.csv --columns tip": "is a regression: name its columns by --columns x1,x2:y",
    "mse tips.csv --columns tip:size": "takes one column",
    "squared tips.csv --columns :tip": "add --intercept",
    "squared tips.csv --columns size:tip --init 0": "--init must hold one number for each of 1 columns: size",
    "own.py:left_out tips.csv": "column 'sex' of tips.csv holds string; only numbers",
    "own.py:misspelt tips.csv --init 0": "LOSS asks for 'tipp'; DATA has no such column. Did you mean 'tip'?",
    "own.py:misspelt tips.csv --stream": "Did you mean 'tip'?",
    "mse tips.csv --columns tip --init [1": "no JSON",
    "mse tips.csv --columns tip --init none.json": "cannot be read",
    "mse tips.csv --columns tip --bounds 1": "LOW,HIGH",
    "mse tips.csv --columns tip --tol -1": "`--tol` must be positive",
    "mse tips.csv --columns tip --method newtn": "the nearest is 'newton'",
    "mse tips.csv --colums tip": "there is no option --colums; the nearest is --columns.",
    "mse tips.csv --stream --in-memory": "contradict",
    "mse tips.csv --stream --by day": "in memory",
    "mse tips.npz --columns y --stream": "can only be read whole",
    "mse tips.csv --every 3": "--checkpoint, which is not given",
    "mse tips.csv --checkpoint none/saved": "there is no folder",
    "mse tips.csv --checkpoint .": "is a folder",
    "mse tips.csv --checkpoint tips.csv": "is DATA, which would be lost",
    "mse tips.csv --checkpoint two.npy": "is no checkpoint; it would be lost",
    "mse tips.csv --resume none": "there is no checkpoint 'none'",
    "mse tips.csv --resume tips.csv": "is no checkpoint",
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_said_in_a_line_or_two(run, folder, line):
    before = sorted(folder.iterdir())
    status, out, err = run(*line.split())
    assert (status, out) == (2, "")
    assert BAD[line] in err
    own = [text for text in err.splitlines() if text != "imported"]
    if not line.startswith("own.py:"):
        assert own[0].startswith("jaxgd: error: ")
        assert len(own) <= 2
    assert sorted(folder.iterdir()) == before


def test_plots_that_cannot_be(run, monkeypatch):
    assert "there is no folder" in run("mse", "tips.csv", "--plot", "none/x.png")[2]
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    status, _, err = run("mse", "tips.csv", "--plot", "x.png")
    assert (status, "jaxgd[plot]" in err) == (2, True)


def test_without_pyarrow(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    status, _, err = run("mse", "tips.csv", "--columns", "tip")
    assert (status, err.count("\n"), "pip install 'jaxgd[arrow]'" in err) == (2, 1, True)


def test_errors_of_the_user_show_their_own_lines(run):
    lines = run("raises.py:loss", "tips.csv")[2].splitlines()
    assert lines[1].endswith('raises.py", line 3, in <module>')
    assert lines[-1] == "jaxgd: error: LOSS: raises.py fails on import: RuntimeError: no luck"
    assert (len(lines), "unfinished.py" in run("unfinished.py:loss", "tips.csv")[2]) == (4, True)
    err = run("own.py:wrong", "tips.csv")[2]
    assert "    return params * undefined\n" in err
    assert "jaxgd: error: LOSS own.py:wrong fails: NameError: name 'undefined' is not defined" in err
    assert not any(text in err for text in ("site-packages", "loss_jaxpr.py", "importlib"))
    assert "loss_jaxpr.py" in run("own.py:wrong", "tips.csv", "--init", "0", "--traceback")[2]
    assert "beside" not in sys.path[0]


def test_ready_made_losses_are_those_there_are():
    there = {name for name, value in vars(losses).items() if getattr(value, "__module__", "") == losses.__name__}
    assert {name for name in there if name[0] != "_"} == set(READY)


def test_help_and_version(run):
    status, out, _ = run("--help")
    assert (status, "jaxgd huber:1.5 tips.csv --columns tip" in out, "--resume" in out) == (0, True, True)
    assert run("--version")[:2] == (0, "jaxgd 0.1.0\n")


def test_a_process_of_its_own(folder):
    command = [sys.executable, "-m", "jaxgd"]
    bad = subprocess.run([*command, "mse", "none.csv"], cwd=folder, capture_output=True, text=True, check=False)
    assert (bad.returncode, bad.stdout, bad.stderr) == (2, "", "jaxgd: error: DATA: there is no file 'none.csv'.\n")
    (folder / "far.json").write_text(json.dumps([-1.2] * 20_000))
    words = ["own.py:valley", "--init", "far.json", "--method", "steepest", "--max-evals", "1000000", "--json"]
    words += ["--checkpoint", "run", "--every", "0", "--time-limit", "60"]
    # Where the tests run in the background, Python would leave Ctrl-C ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from jaxgd.cli import command; "
    command = [sys.executable, "-c", f"{code}raise SystemExit(command.main({words}))"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        ends = time.monotonic() + 60
        while not (folder / "run").exists() and time.monotonic() < ends:
            time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate()
    found = json.loads(out)
    assert (child.returncode, found["status"], len(found["params"])) == (1, "INTERRUPTED", 20_000)
    assert b"Traceback" not in err
