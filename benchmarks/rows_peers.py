"""The peers of `benchmarks.rows`, each as its own documentation has it used where speed counts.

A maker takes a `Problem`, sets up once, and returns a function of what is asked for, which returns the call to time. It
raises ImportError where the peer is not installed.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

MOST = 1000  # iterations of a regression, at most


class Problem(NamedTuple):
    """A loss, its data and start, for all."""

    loss: Callable[..., Any]
    data: Any  # pair of NumPy arrays, rows first
    on_device: Any  # the same as JAX arrays
    init: Any
    in_torch: Callable[..., Any]  # the same loss, of a list of tensors and the data
    estimators: dict[str, Callable[..., Any]]  # of scikit-learn, that solve the same problem, from a tolerance


class Answer(NamedTuple):
    """What a call returns."""

    params: Any
    cost: Any = ""  # evaluations; iterations, where they alone are known, end in " it"


def _host_pass(problem):
    """Return the flat start, its structure, and loss and gradient on the host, from one compiled call."""
    flat, unravel = ravel_pytree(problem.init)
    compiled = jax.jit(jax.value_and_grad(lambda w, data: problem.loss(unravel(w), data)))

    def both(w):
        value, grad = compiled(jnp.asarray(w, flat.dtype), problem.on_device)
        return float(value), np.asarray(grad, np.float64)

    return np.asarray(flat, np.float64), unravel, both


def scipy_lbfgsb(problem):
    import scipy.optimize

    start, _, both = _host_pass(problem)

    def at(tol):
        options = {"maxiter": MOST, "gtol": tol, "ftol": 1e-12}

        def call():
            found = scipy.optimize.minimize(both, start, jac=True, method="L-BFGS-B", options=options)
            return Answer(found.x, found.nfev)

        return call

    return at


def torch_lbfgs(problem):
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    data = [torch.from_numpy(leaf) for leaf in problem.data]

    def at(tol):
        def call():
            params = [torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in jax.tree.leaves(problem.init)]
            options = {"max_iter": MOST, "max_eval": 2 * MOST, "tolerance_grad": tol, "tolerance_change": 1e-12}
            solver = torch.optim.LBFGS(params, line_search_fn="strong_wolfe", **options)

            def closure():
                solver.zero_grad()
                value = problem.in_torch(params, data)
                value.backward()
                return value

            solver.step(closure)
            return Answer(_from_torch(problem, params), solver.state[params[0]]["func_evals"])

        return call

    return at


def _from_torch(problem, params):
    leaves = [leaf.detach().numpy().copy() for leaf in params]
    return jax.tree.structure(problem.init).unflatten(leaves)


def optax_lbfgs(problem):
    import optax

    solver = optax.lbfgs()

    @jax.jit
    def solve(w, data, tol):
        step = _optax_step(optax, solver, lambda w: problem.loss(w, data))

        def unfinished(carry):
            _, state, _ = carry
            get = optax.tree_utils.tree_get
            done = (get(state, "count") > 0) & (optax.tree_utils.tree_norm(get(state, "grad")) < tol)
            return ~done & (get(state, "count") < MOST)

        w, _, cost = jax.lax.while_loop(unfinished, step, (w, solver.init(w), 1))
        return Answer(w, cost)

    return lambda tol: lambda: solve(problem.init, problem.on_device, tol)


def _optax_step(optax, solver, value_of):
    kept = optax.value_and_grad_from_state(value_of)

    def step(carry):
        w, state, cost = carry
        value, grad = kept(w, state=state)
        updates, state = solver.update(grad, state, w, value=value, grad=grad, value_fn=value_of)
        made = optax.tree_utils.tree_get(state, "num_linesearch_steps")
        return optax.apply_updates(w, updates), state, cost + made

    return step


def _optimistix(name):
    def maker(problem):
        import optimistix as optx

        def at(tol):
            solver = getattr(optx, name)(rtol=tol, atol=tol)

            @jax.jit
            def solve(w, data):
                found = optx.minimise(problem.loss, solver, w, data, max_steps=MOST, throw=False)
                return Answer(found.value, found.stats["num_steps"])

            return lambda: solve(problem.init, problem.on_device)

        return at

    return maker


def jaxopt_lbfgs(problem):
    import jaxopt

    def at(tol):
        solver = jaxopt.LBFGS(problem.loss, maxiter=MOST, tol=tol, linesearch="zoom")

        @jax.jit
        def solve(w, data):
            found = solver.run(w, data)
            return Answer(found.params, found.state.num_fun_eval)

        return lambda: solve(problem.init, problem.on_device)

    return at


def _estimator(name):
    def maker(problem):
        import sklearn  # noqa: F401 - whether it is there

        def at(tol):
            def call():
                fitted = problem.estimators[name](tol).fit(*problem.data)
                many = getattr(fitted, "n_iter_", None)
                return Answer(np.ravel(fitted.coef_), "" if many is None else f"{np.max(many)} it")

            return call

        return at

    return maker


def tuned(problem):
    """Return the makers, by name, that take a tolerance."""
    makers = {
        "SciPy L-BFGS-B": scipy_lbfgsb,
        "torch LBFGS": torch_lbfgs,
        "optax lbfgs": optax_lbfgs,
        "optimistix LBFGS": _optimistix("LBFGS"),
        "optimistix BFGS": _optimistix("BFGS"),
        "jaxopt LBFGS": jaxopt_lbfgs,
    }
    return makers | {f"scikit-learn {name}": _estimator(name) for name in problem.estimators}


def estimators(name, rows, ridge):
    """Return scikit-learn's estimators of the same loss, by solver: functions of the tolerance."""

    def logistic(solver):
        from sklearn.linear_model import LogisticRegression

        strength = {"C": 1 / (ridge * rows), "fit_intercept": False}
        return lambda tol: LogisticRegression(solver=solver, tol=tol, max_iter=MOST, **strength)

    def poisson(solver):
        from sklearn.linear_model import PoissonRegressor

        return lambda tol: PoissonRegressor(alpha=ridge, fit_intercept=False, solver=solver, tol=tol, max_iter=MOST)

    def squares(solver):
        from sklearn.linear_model import Ridge

        strength = {"alpha": ridge * rows, "fit_intercept": False}
        return lambda tol: Ridge(solver=solver, tol=tol, max_iter=MOST, **strength)

    # HuberRegressor estimates a scale as well: another problem.
    made = {
        "logistic": (logistic, ("lbfgs", "newton-cholesky")),
        "poisson": (poisson, ("lbfgs", "newton-cholesky")),
        "squares": (squares, ("cholesky", "lsqr")),
    }
    if name not in made:
        return {}
    maker, solvers = made[name]
    return {solver: lambda tol, solver=solver: maker(solver)(tol) for solver in solvers}


def chase_scipy(problem, most):
    import scipy.optimize

    start, unravel, both = _host_pass(problem)

    def at(target):
        def reached(intermediate_result):
            if intermediate_result.fun <= target:
                raise StopIteration

        options = {"maxiter": most, "maxfun": 2 * most, "gtol": 0, "ftol": 0}

        def call():
            found = scipy.optimize.minimize(both, start, jac=True, method="L-BFGS-B", options=options, callback=reached)
            return Answer(unravel(jnp.asarray(found.x, jnp.float32)), found.nfev)

        return call

    return at


class _Reached(Exception):  # noqa: N818 - no error
    pass


def chase_torch(problem, most):
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    data = [torch.from_numpy(leaf) for leaf in problem.data]

    def at(target):
        def call():
            params = [torch.tensor(np.asarray(leaf), requires_grad=True) for leaf in jax.tree.leaves(problem.init)]
            options = {"max_iter": most, "max_eval": 2 * most, "tolerance_grad": 0, "tolerance_change": 0}
            solver = torch.optim.LBFGS(params, line_search_fn="strong_wolfe", **options)
            cost = 0

            def closure():
                nonlocal cost
                cost += 1
                solver.zero_grad()
                value = problem.in_torch(params, data)
                if value.item() <= target:
                    raise _Reached
                value.backward()
                return value

            with contextlib.suppress(_Reached):
                solver.step(closure)
            return Answer(_from_torch(problem, params), cost)

        return call

    return at


def chase_optax_lbfgs(problem, most):
    import optax

    solver = optax.lbfgs()

    @jax.jit
    def solve(w, data, target):
        step = _optax_step(optax, solver, lambda w: problem.loss(w, data))

        def unfinished(carry):
            _, state, cost = carry
            return (cost < most) & ~(optax.tree_utils.tree_get(state, "value") <= target)

        w, _, cost = jax.lax.while_loop(unfinished, step, (w, solver.init(w), 1))
        return Answer(w, cost)

    return lambda target: lambda: solve(problem.init, problem.on_device, target)


def chase_adam(rate):
    def maker(problem, most):
        import optax

        solver = optax.adam(rate)

        @jax.jit
        def solve(w, data, target):
            both = jax.value_and_grad(problem.loss)

            def step(carry):
                w, state, _, grad, cost = carry
                updates, state = solver.update(grad, state, w)
                w = optax.apply_updates(w, updates)
                return w, state, *both(w, data), cost + 1

            def unfinished(carry):
                return (carry[4] < most) & (carry[2] > target)

            w, _, _, _, cost = jax.lax.while_loop(unfinished, step, (w, solver.init(w), *both(w, data), 1))
            return Answer(w, cost)

        return lambda target: lambda: solve(problem.init, problem.on_device, target)

    return maker


def _chase_optimistix(name):
    def maker(problem, most):
        import optimistix as optx

        def at(target):
            class Chase(getattr(optx, name)):
                def terminate(self, fn, y, args, options, state, tags):
                    del fn, y, args, options, tags
                    reached = (state.f_info.f <= target) & (state.num_accepted_steps > 0)
                    return reached, state.result

            solver = Chase(rtol=0.0, atol=0.0)

            @jax.jit
            def solve(w, data):
                found = optx.minimise(problem.loss, solver, w, data, max_steps=most, throw=False)
                return Answer(found.value, found.stats["num_steps"])

            return lambda: solve(problem.init, problem.on_device)

        return at

    return maker


def chase_jaxopt(problem, most):
    import jaxopt

    solver = jaxopt.LBFGS(problem.loss, maxiter=most, tol=0.0, linesearch="zoom")

    @jax.jit
    def solve(w, data, target):
        def unfinished(carry):
            _, state = carry
            return (state.num_fun_eval < most) & (state.value > target)

        def step(carry):
            return tuple(solver.update(*carry, data))

        w, state = jax.lax.while_loop(unfinished, step, (w, solver.init_state(w, data)))
        return Answer(w, state.num_fun_eval)

    return lambda target: lambda: solve(problem.init, problem.on_device, target)


def chasing():
    """Return the makers, by name, that take a loss to reach; each stops at the first value of its own below it."""
    adams = {f"optax adam {rate:g}": chase_adam(rate) for rate in (1e-3, 3e-3, 1e-2)}
    return {
        "SciPy L-BFGS-B": chase_scipy,
        "torch LBFGS": chase_torch,
        "optax lbfgs": chase_optax_lbfgs,
        "optimistix LBFGS": _chase_optimistix("LBFGS"),
        "jaxopt LBFGS": chase_jaxopt,
        **adams,
    }
