"""What a trace's content is inside vLLM: token ids, and the hashes of their blocks."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokencake.sim.chains import Chain, ContentTree, Pieces

if TYPE_CHECKING:
    from tokencake.sim.chains import Segment


@functools.cache
def hash_function() -> Any:
    """VLLM's default block hash function."""
    from vllm.utils.hashing import get_hash_fn_by_name

    return get_hash_fn_by_name("sha256")


def block_hasher(block_size: int) -> Any:
    """What names the full blocks of a vLLM request."""
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher

    return get_request_block_hasher(block_size, hash_function())


@functools.cache
def prepare_hashing() -> None:
    """Set what the first block of a chain hashes as its parent; an engine with a model does that itself."""
    from vllm.v1.core.kv_cache_utils import init_none_hash

    init_none_hash(hash_function())


class HashedChain(Chain):
    """A chain whose blocks are named by vLLM's hashes.

    Attributes:
        prompt: Token ids of the prompt.
        output: Token ids of the output.
    """

    __slots__ = ("_hashes", "_size", "output", "prompt")

    def __init__(self, prompt: list[int], output: list[int], size: int):
        super().__init__([], (len(prompt) + len(output)) // size)
        self.prompt = prompt
        self.output = output
        self._size = size
        self._hashes: list[Any] | None = None

    @property
    def block_hashes(self) -> Sequence[Any]:
        """Hash of every full block of prompt and output; named as in vLLM's ``Request``."""
        if self._hashes is None:
            from vllm.v1.core.kv_cache_utils import hash_block_tokens

            tokens, size, function = self.prompt + self.output, self._size, hash_function()
            self._hashes = []
            parent = None
            for start in range(0, self.blocks * size, size):
                parent = hash_block_tokens(function, parent, tokens[start : start + size], None)
                self._hashes.append(parent)
        return self._hashes


class Contents(ContentTree):
    """Makes chains for an engine; vLLM's hashes need no tree.

    Args:
        block_size: Tokens in a KV block.
        vocabulary: Token ids are below this.
        said: What a model itself says, by content id: token ids that do not follow from the content's name.
    """

    def __init__(self, block_size: int, vocabulary: int = 1 << 30, said: Mapping[str, Sequence[int]] | None = None):
        super().__init__(block_size)
        self._vocabulary = vocabulary
        self._streams: dict[str, list[int]] = {}
        for content, tokens in (said or {}).items():
            self.teach(content, tokens)

    def of(self, prompt: Pieces, output: Pieces) -> HashedChain:
        """The chain of a call."""
        return HashedChain(self.ids(prompt), self.ids(output), self.block_size)

    def ids(self, pieces: Pieces) -> list[int]:
        """Token ids of content: a stable number for each ``(content id, offset)``.

        They are at least 3, so that no special token appears.
        """
        ids: list[int] = []
        for content, tokens in pieces:
            ids.extend(self._stream(content, tokens)[:tokens])
        return ids

    def teach(self, content: str, tokens: Sequence[int]) -> None:
        """Say what a content's first tokens are; what follows them stays as it was."""
        stream = self._stream(content, len(tokens))
        stream[: len(tokens)] = tokens

    def _stream(self, content: str, tokens: int) -> list[int]:
        """A content's token ids, at least so many."""
        stream = self._streams.setdefault(content, [])
        while len(stream) < tokens:
            digest = hashlib.blake2b(f"{content}/{len(stream)}".encode("utf-8", "surrogatepass")).digest()
            numbers = (int.from_bytes(digest[i : i + 4], "big") for i in range(0, 64, 4))
            stream.extend(3 + number % (self._vocabulary - 3) for number in numbers)
        return stream

    def retain(self, chain: Chain) -> None:
        """Nothing refers to a chain but the calls themselves."""

    def release(self, chain: Chain) -> None:
        """Nothing refers to a chain but the calls themselves."""

    def forget(self, segment: Segment) -> None:
        """There are no segments."""
