"""The laboratory: daemons in simulated worlds on a virtual clock, with faults at every step, checked by invariants.

A *world* (``world.py``) is what a daemon depends on: files, S3, Redis. A *scenario* (``scenarios/``) is a script of
what writers and servers do in it. A *plan* (``run.py``) is a scenario, the faults injected into the daemon, and a seed;
equal plans give identical runs. The *explorers* (``explorers.py``) inject a fault at every step and in every call of
each scenario, or make random worlds from seeds (``simulation.py``). Each run is checked by ``invariants.py``.
*Mutations* (``mutations/``) remove one safeguard each, to show that the invariants detect it.

Replay a run with its journal::

    cef-trio lab replay first-part cancel@17         # cancelled before step 17; kill@N, drain@N, die-before@N, …
    cef-trio lab replay first-part kill@150 die-unanswered@9/2   # and again in call 9 of the second daemon
    cef-trio lab replay simulated --seed 7           # the random world of a seed, with its injections

**Add a scenario**: write an async function of a :class:`~cef_trio.lab.scenario_context.ScenarioContext`, and add a
:class:`~cef_trio.lab.scenarios.model.Scenario` to ``SCENARIOS``, both in the file of ``scenarios/`` that it belongs to.
Sizes are in parts (``PART``, 1000 bytes); times are virtual seconds::

    async def _patched_after_sending(context: ScenarioContext) -> None:
        context.append(2 * PART + 10)  # to a.mp4, which stays open
        context.arm(Fault(Kind.ERROR, "UploadPart", code="SlowDown"))  # once; times=None: always
        await trio.sleep(1)
        context.patch(5, b"patched")
        context.close()
        await trio.sleep(8)  # until the daemon has completed it

    Scenario("patched-after-sending", "a sent part is patched", _patched_after_sending),

``cef-trio lab replay patched-after-sending`` runs it; ``cancel`` and ``crash`` with ``--scenario
patched-after-sending`` explore it. The other fields of ``Scenario`` permit what is otherwise a violation.

**Add a fault**: of S3, as above (kinds: :class:`~cef_trio.s3_endpoint.faults.Kind`); of a proxy, Redis or files,
``context.world.proxy``, ``RedisFaults(context.world)``, ``context.file_system`` and ``context.writers``. For random
worlds, write an async context manager that applies the fault until its block ends, and add it to ``_GENTLE`` (it only
costs time) or ``_ROUGH`` of ``environment_faults.py`` or ``file_faults.py``, or to ``lasting_faults.py``. This changes
the worlds of all seeds with such faults.

**Add a mutation**: see ``mutations/__init__.py``. **Add an invariant**: see ``invariants.py``; then add a mutation that
violates it.
"""

from cef_trio.lab.command import run_lab

__all__ = ["run_lab"]
