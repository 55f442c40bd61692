"""Pictures, by matplotlib (`pip install 'jaxgd[plot]'`), and one for a browser.

Of a loss of one parameter, as in the chapter on gradient descent of *Principles and Techniques of Data Science* (Lau,
Gonzalez and Nolan, chapter 11), from loss and data alone: `curve`, `tangent`, `step`, `descent`, and `explore`, a page
with sliders. `contour` is for two parameters, `trace` for what was seen on the way, `profile` for how sure an answer
is; `fit` shows data with a fitted curve; `evals`, `statuses` and `worst` are for many problems.

>>> import jaxgd
>>> page = jaxgd.plot.explore(jaxgd.losses.mse, [12.1, 12.8, 14.9, 16.3, 17.2])
>>> page.html.startswith("<!doctype html>")
True
"""

from jaxgd.plot.census import evals, statuses, worst
from jaxgd.plot.chapter import curve, descent, step, tangent
from jaxgd.plot.contours import contour, trace
from jaxgd.plot.fits import fit
from jaxgd.plot.page import Page, explore
from jaxgd.plot.profiles import profile

__all__ = [
    "Page",
    "contour",
    "curve",
    "descent",
    "evals",
    "explore",
    "fit",
    "profile",
    "statuses",
    "step",
    "tangent",
    "trace",
    "worst",
]
