"""The ledger of TokenCake's 2026 port: which pool pays for which occupied block.

Memory is divided on paper only (:class:`~tokencake.policies.tokencake_types.Partition`): the ledger gates
new admissions, and admitted work grows natively. A block is charged once, to the first call that
occupies it, and the charge ends when nobody holds the block.

The port charges physical blocks. A policy sees calls, so this ledger charges calls; when a call ends
with blocks that siblings still hold, its charges stay as *leftovers* until the blocks are free. The total
always equals the occupied blocks. Leftovers of a program none of whose calls is admitted go first, since
nobody holds its blocks; then those of the program whose call ended last. So only which of one program's
leftovers is over is approximate, newest first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tokencake.policies.tokencake_types import Partition

SHARED = ""
"""Name of the pool that is open to all."""

Payment = Sequence[tuple[str, int]]
"""Blocks that each pool pays, in order."""


@dataclass(slots=True)
class Account:
    """Charges of one admitted call.

    Attributes:
        program: The call's program, whose calls share blocks.
        pools: Blocks that each pool paid.
        known: GPU blocks of the call that are charged, to it or to those who held them first.
    """

    program: str
    agent_type: str
    known: int = 0
    pools: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Available:
    """Blocks that each pool can still pay."""

    shared: int
    reserved: dict[str, int]

    def limit(self, uncommitted: int, scores: Mapping[str, float]) -> None:
        """Promise no more than ``uncommitted``: shared gives up first, then the types with the lowest scores."""
        excess = self.shared + sum(self.reserved.values()) - max(0, uncommitted)
        if excess <= 0:
            return
        cut = min(excess, self.shared)
        self.shared -= cut
        excess -= cut
        for name in sorted(self.reserved, key=lambda name: (scores.get(name, 0.0), name)):
            if excess <= 0:
                return
            cut = min(excess, self.reserved[name])
            self.reserved[name] -= cut
            excess -= cut

    def pay(self, demand: int, agent_type: str, donors: Sequence[str]) -> Payment | None:
        """Who pays for ``demand`` blocks: shared, the type's own reserve, the donors in order; None: nobody can."""
        payment = [(SHARED, min(demand, self.shared))]
        left = demand - payment[0][1]
        for name in (agent_type, *donors):
            if left <= 0:
                break
            part = min(left, self.reserved.get(name, 0))
            if part:
                payment.append((name, part))
                left -= part
        return payment if left <= 0 else None


class Ledger:
    """Charges of all occupied blocks under the current partition."""

    def __init__(self) -> None:
        self.plan = Partition(0)
        self.charged: dict[str, int] = {}
        self._accounts: dict[str, Account] = {}
        self._leftovers: dict[str, list[dict[str, int]]] = {}

    def available(self, uncommitted: int) -> Available:
        """What each pool can pay now."""
        charged = self.charged.get
        plan = self.plan
        free = Available(
            max(0, plan.shared - charged(SHARED, 0)),
            {name: max(0, blocks - charged(name, 0)) for name, blocks in plan.reserved.items()},
        )
        free.limit(uncommitted, plan.scores)
        return free

    def admit(self, call_id: str, program: str, agent_type: str, busy_hits: int, blocks: int, payment: Payment) -> None:
        """A call starts: charge the ``blocks`` that it newly occupies, in the order of its payment."""
        account = self._accounts[call_id] = Account(program, agent_type, busy_hits)
        self._charge(account, blocks, payment)

    def end(self, call_id: str) -> None:
        """A call lets go of its blocks; siblings may still hold some of them."""
        account = self._accounts.pop(call_id, None)
        if account is not None and account.pools:
            leftovers = self._leftovers.pop(account.program, [])  # now the last program
            leftovers.append(account.pools)
            self._leftovers[account.program] = leftovers

    def settle(self, held: Callable[[str], int], occupied: int) -> None:
        """Charge what admitted calls grew by, and end the charges of blocks that nobody holds.

        Args:
            held: GPU blocks of an admitted call.
            occupied: GPU blocks that anybody holds.
        """
        for call_id, account in self._accounts.items():
            grown = held(call_id) - account.known
            if grown > 0:
                self._grow(account, grown)
        freed = sum(self.charged.values()) - occupied
        if freed <= 0 or not self._leftovers:
            return
        active = {account.program: True for account in self._accounts.values()}
        newest_first = list(reversed(self._leftovers))
        for program in sorted(newest_first, key=lambda program: program in active):
            freed = self._give_back(program, freed)
            if not freed:
                return

    def _give_back(self, program: str, freed: int) -> int:
        """End charges of a program's ended calls for ``freed`` blocks; returns for how many it has none."""
        leftovers = self._leftovers[program]
        while freed and leftovers:
            pools = leftovers[-1]
            for name in list(pools):
                part = min(freed, pools[name])
                freed -= part
                self.charged[name] -= part
                pools[name] -= part
                if not pools[name]:
                    del pools[name]
            if not pools:
                leftovers.pop()
        if not leftovers:
            del self._leftovers[program]
        return freed

    def _grow(self, account: Account, blocks: int) -> None:
        plan, charged, name = self.plan, self.charged, account.agent_type
        shared = max(0, plan.shared - charged.get(SHARED, 0))
        own = max(0, plan.reserved.get(name, 0) - charged.get(name, 0))
        part = min(blocks, shared)
        self._charge(account, blocks, ((SHARED, part), (name, min(blocks - part, own))))

    def _charge(self, account: Account, blocks: int, payment: Payment) -> None:
        """Charge ``blocks`` along a payment; what it does not cover is a debt of the shared pool."""
        account.known += blocks
        for name, part in (*payment, (SHARED, blocks)):
            part = min(part, blocks)
            if part:
                account.pools[name] = account.pools.get(name, 0) + part
                self.charged[name] = self.charged.get(name, 0) + part
                blocks -= part
