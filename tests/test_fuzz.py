"""What is claimed of random losses holds; `python -m benchmarks.fuzz` has many more."""

import pytest

from benchmarks import fuzz


@pytest.mark.filterwarnings("ignore::jaxgd.NotConvergedWarning")
def test_random_losses():
    found = dict(zip(fuzz.HEAD, fuzz.row("auto", "float64", 300, seed=1), strict=True))
    assert int(found["claimed"]) > 100
    assert (found["gravely"], found["misstated"], found["above the start"]) == ("0", "0", "0")
