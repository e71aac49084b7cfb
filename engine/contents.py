"""What a trace's content is inside vLLM: token ids, and the hashes of their blocks."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tokencake.sim.chains import Chain, ContentTree, Pieces

if TYPE_CHECKING:
    from tokencake.sim.chains import Segment


def token_ids(pieces: Pieces, vocabulary: int = 1 << 30) -> list[int]:
    """Token ids of content: a stable number for each ``(content id, offset)``.

    Args:
        pieces: Flat content.
        vocabulary: Ids are at least 3, so that no special token appears, and below this.
    """
    ids: list[int] = []
    for content, tokens in pieces:
        ids.extend(_stream(content, tokens, vocabulary)[:tokens])
    return ids


_streams: dict[tuple[str, int], list[int]] = {}


def _stream(content: str, tokens: int, vocabulary: int) -> list[int]:
    stream = _streams.setdefault((content, vocabulary), [])
    while len(stream) < tokens:
        digest = hashlib.blake2b(f"{content}/{len(stream)}".encode("utf-8", "surrogatepass")).digest()
        numbers = (int.from_bytes(digest[i : i + 4], "big") for i in range(0, 64, 4))
        stream.extend(3 + number % (vocabulary - 3) for number in numbers)
    return stream


def teach(content: str, tokens: Sequence[int], vocabulary: int) -> None:
    """Say what a content id's tokens are, where it is not its name that decides: a model's own output.

    Args:
        content: Content id.
        tokens: Its first token ids; what follows them stays as it was.
        vocabulary: The vocabulary they are from.
    """
    stream = _stream(content, len(tokens), vocabulary)
    stream[: len(tokens)] = tokens


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
    """

    def __init__(self, block_size: int, vocabulary: int = 1 << 30):
        super().__init__(block_size)
        self.vocabulary = vocabulary

    def of(self, prompt: Pieces, output: Pieces) -> HashedChain:
        """The chain of a call."""
        ids = token_ids(prompt, self.vocabulary), token_ids(output, self.vocabulary)
        return HashedChain(*ids, self.block_size)

    def retain(self, chain: Chain) -> None:
        """Nothing refers to a chain but the calls themselves."""

    def release(self, chain: Chain) -> None:
        """Nothing refers to a chain but the calls themselves."""

    def forget(self, segment: Segment) -> None:
        """There are no segments."""
