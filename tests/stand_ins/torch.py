"""The few names of torch that docs/how-to/checkpoints.md uses, over numpy: for where torch is not installed."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np

_random = np.random.default_rng()


class _Tensor(np.ndarray):
    def square(self):
        return self**2

    def mean(self):  # type: ignore[override] # of all there is, as far as is needed here
        return _Loss(np.asarray(self).mean())


class _Loss(float):
    def backward(self):
        pass

    def item(self):
        return float(self)


class _Linear:
    def __init__(self, inputs, outputs):
        self.weight = _random.normal(size=(outputs, inputs)).astype(np.float32) * 0.05

    def __call__(self, batch):
        return (batch @ self.weight.T).view(_Tensor)

    def parameters(self):
        return [self.weight]

    def state_dict(self):
        return {"weight": self.weight}

    def load_state_dict(self, state):
        self.weight[:] = state["weight"]


class _AdamW:
    def __init__(self, parameters, lr):
        self._parameters, self._rate = parameters, lr

    def step(self):
        for each in self._parameters:
            each *= 1 - self._rate

    def zero_grad(self):
        pass

    def state_dict(self):
        return {"rate": self._rate}

    def load_state_dict(self, state):
        self._rate = state["rate"]


nn = SimpleNamespace(Linear=_Linear)
optim = SimpleNamespace(AdamW=_AdamW)


def manual_seed(seed):
    global _random
    _random = np.random.default_rng(seed)


def randn(*shape):
    return _random.normal(size=shape).astype(np.float32).view(_Tensor)


def save(value, path):
    with open(path, "wb") as file:
        pickle.dump(value, file)


def load(file):
    return pickle.load(file)
