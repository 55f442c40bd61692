"""What the command line takes, and what its help says."""

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import jaxgd
from jaxgd.cli.loss import READY, written
from jaxgd.solvers.registry import METHODS

KINDS = {"minimize": jaxgd.minimize, "maximize": jaxgd.maximize, "least_squares": jaxgd.least_squares}
DESCRIPTION = "Find the parameters that make a loss smallest over the rows of a file."
EXAMPLES = f"""\
LOSS is ready-made, or a function of your own:
  of one column      {written(regression=False)}
  of a regression    {written(regression=True)}
  your own           fit.py:loss, a function loss(params, data) written in jax.numpy

examples:
  jaxgd huber:1.5 tips.csv --columns tip
  jaxgd squared tips.csv --columns total_bill:tip --intercept --summary --plot tips.png
  jaxgd mse tips.csv --columns tip --by day
  jaxgd fit.py:loss rows.parquet --init '{{"w": [0, 0], "b": 0}}' --json > fit.json
  jaxgd fit.py:loss rows.parquet --init fit.json --checkpoint run --plot fit.png

The result, alone, goes to stdout; all else to stderr. Exit status: 0 converged, 1 not converged, 2 nothing was solved
(the last line on stderr says why), 130 interrupted before anything was found.
Only LOSS is executed, never anything in DATA. Without arguments, `jaxgd` runs an example on data of its own.
"""


class Columns(NamedTuple):
    """What `--columns` names: of X, None where there is none, and of y."""

    X: list[str] | None
    y: list[str]


class Parser(argparse.ArgumentParser):
    """One whose errors take two lines, and name the nearest option."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        if unknown := re.fullmatch(r"unrecognized arguments: (--[\w-]+).*", message):
            nearest = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1, cutoff=0.0)[0]
            message = f"there is no option {unknown[1]}; the nearest is {nearest}."
        message = message.removeprefix("argument ")
        self.exit(2, f"jaxgd: error: {message}\nTry `jaxgd --help`.\n")


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return what is asked for; refuse options that contradict each other."""
    parser = _parser()
    asked = parser.parse_args(_with_values(argv))
    for wrong, message in _contradictions(asked):
        if wrong:
            parser.error(message)
    return asked


def _parser() -> Parser:
    parser = Parser(
        prog="jaxgd",
        usage="jaxgd LOSS [DATA] [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("loss", metavar="LOSS", help="name of a ready-made loss, or file.py:function")
    parser.add_argument(
        "data",
        metavar="DATA",
        nargs="?",
        help="file: .csv, .tsv, .parquet, .arrow, .feather, .npy or .npz; absent for a function of params alone",
    )
    parser.add_argument("--version", action="version", version=f"jaxgd {jaxgd.__version__}")
    for add in (_add_data, _add_solve, _add_saving, _add_output):
        add(parser)
    return parser


def _add_data(parser: Parser) -> None:
    add = parser.add_argument_group("what of DATA").add_argument
    add(
        "--columns",
        metavar="C",
        type=_columns,
        help="`y`: the loss gets that column; `x1,x2:y`: it gets (X, y), X a matrix. Of .npy files, numbers from 0."
        " Absent: a function gets those that it asks for by name, else a matrix of all, or the array of a .npy file",
    )
    add("--intercept", action="store_true", help="put a column of ones in front of X")
    add("--by", metavar="COLUMN", help="solve one problem for each label in this column")
    add("--stream", action="store_true", help="read DATA anew at each pass, in little memory, as more than 256 MB are")
    add("--in-memory", action="store_true", help="read all of DATA, for a loss that is no mean over its rows")


def _add_solve(parser: Parser) -> None:
    add = parser.add_argument_group("how to solve").add_argument
    add("--init", metavar="START", help="a number, JSON, or a .json, .npy or .npz file (also what --json has printed)")
    add("--kind", choices=KINDS, default="minimize", help="minimize (the default), maximize, or least_squares, of a"
        " function that returns residuals")  # fmt: skip
    add("--method", metavar="NAME", default="auto", help=f"one of {', '.join(METHODS)}")
    add("--tol", type=float, help="part of the decrease of the loss that may be left; absent: what rounding allows")
    add("--max-evals", type=int, metavar="N", help="evaluations of the loss, at most (default 10000)")
    add("--time-limit", type=float, metavar="S", help="end after so many seconds")
    add("--dtype", choices=("float64", "float32"), default="float64", help="to compute in; float64 is the default")
    add("--bounds", metavar="LOW,HIGH", help="of all params; leave one empty for none, as in `0,`")
    add("--l1", type=float, metavar="WEIGHT", help="add WEIGHT * sum(|params|), which makes exact zeros")
    add("--l2", type=float, metavar="WEIGHT", help="add WEIGHT / 2 * sum(params**2); of ready-made losses, neither --l1"
        " nor --l2 weighs the --intercept")  # fmt: skip


def _add_saving(parser: Parser) -> None:
    add = parser.add_argument_group("saving").add_argument
    add("--checkpoint", metavar="PATH", help="save the whole run there now and then, and at the end")
    add("--every", type=float, metavar="S", help="seconds between two savings (default 60)")
    add("--resume", metavar="PATH", help="carry a saved run on, bit for bit: with the same LOSS, DATA and options")


def _add_output(parser: Parser) -> None:
    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="print one JSON object; NaN and infinity are null")
    add("--summary", action="store_true", help="say how sure each param is: standard errors and intervals")
    add("--plot", metavar="FILE", help="draw a .png, .pdf or .svg: of a ready-made regression on one column the"
        " data and the fitted curve with its error; of all else loss, gradient and step against moves")  # fmt: skip
    add("--progress", action=argparse.BooleanOptionalAction, help="show the solve on stderr; by default on a terminal")
    add("--traceback", action="store_true", help="show Python's whole traceback with an error")


def _contradictions(asked: argparse.Namespace) -> list[tuple[bool, str]]:
    """Return what must not be, and what to say of it."""
    ready, squares = asked.loss.partition(":")[0] in READY, asked.kind == "least_squares"
    X = None if asked.columns is None else asked.columns.X
    of_data = [
        name
        for name in ("columns", "intercept", "by", "stream", "in_memory")
        if getattr(asked, name) not in (None, False)
    ]
    given = of_data and f"--{of_data[0].replace('_', '-')}"
    return [
        (asked.data is None and ready, f"the ready-made loss {asked.loss} needs DATA, a file."),
        (asked.data is None and bool(of_data), f"{given} is of DATA, which is not given."),
        (asked.stream and asked.in_memory, "--stream and --in-memory contradict each other. Leave one out."),
        (asked.stream and asked.by is not None, "--by needs all of DATA in memory. Leave out --by or --stream."),
        (asked.stream and squares, "--kind least_squares needs all residuals in memory. Leave out --stream."),
        (ready and squares, f"--kind least_squares takes a function of residuals; {asked.loss} is a loss already."),
        (asked.plot is not None and asked.by is not None, "--plot draws one solve; --by makes many. Leave one out."),
        (asked.every is not None and asked.checkpoint is None, "--every is of --checkpoint, which is not given."),
        (asked.intercept and X is None, "--intercept is of a matrix X: name it by --columns x1,x2:y."),
        (X == [] and not asked.intercept, "--columns names none before the colon. Name some, or add --intercept."),
    ]


def _columns(text: str) -> Columns:
    """Read `--columns`; a backslash before a comma or a colon makes it part of a name."""
    sides = [
        [re.sub(r"\\([,:])", r"\1", name).strip() for name in re.split(r"(?<!\\),", side) if name.strip()]
        for side in re.split(r"(?<!\\):", text)
    ]
    if len(sides) > 2 or not sides[-1]:  # noqa: PLR2004 - X and y
        msg = f"{text!r} selects no column that the loss could get. Write `y`, or `x1,x2:y` for (X, y)."
        raise argparse.ArgumentTypeError(msg)
    return Columns(sides[0] if len(sides) > 1 else None, sides[-1])


def _with_values(argv: Sequence[str]) -> list[str]:
    """Join negative values to their options: `--bounds -1,1` would be taken for two options."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] in ("--init", "--bounds") and re.match(r"-(\d|\.\d|inf)", word):
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined
